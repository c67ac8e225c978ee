"""One epoch of lesson 04's batch-norm network on MNIST, loaded in two ways.

Theirs: torchvision's dataset, ToTensor and Normalize per image, a DataLoader, and
torch.optim.SGD. Ours: `bn_helpers.train`, tensors in memory. Both see the same batches
and do the same arithmetic, which is verified before anything is timed.

    python -m benchmarks.mnist_epoch
"""

import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from bn_helpers import data, train

DIMS = (784, 256, 256, 256, 256, 10)
BATCH = 128
LR = 0.1
THREADS = 2
ROUNDS = 5  # interleaved: theirs, ours, theirs, ours, ...


def new_model():
    torch.manual_seed(0)
    return train.make_mlp(DIMS, nn.Sigmoid, nn.BatchNorm1d)


def new_order():
    return torch.randperm(60_000, generator=torch.Generator().manual_seed(0))


def their_dataset():
    """The training set as most MNIST scripts build it."""
    data.load_mnist()  # unpacks the files, where another script would download them
    transform = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize((data.MNIST_MEAN,), (data.MNIST_STD,)),
        ]
    )
    return datasets.MNIST(data.DATA, train=True, transform=transform)


def their_epoch(model, dataset, order):
    """Train on the images of `order`, batch by batch, as most MNIST scripts do."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    model.train()
    for x, y in DataLoader(dataset, batch_size=BATCH, sampler=order.tolist()):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x.flatten(1)), y)
        loss.backward()
        optimizer.step()
        loss.item()


def our_epoch(model, digits, order):
    """The same with tensors in memory."""
    for rows in order.split(BATCH):
        train.train_step(model, digits.x_train[rows], digits.y_train[rows], LR)


def largest_difference(dataset, digits, steps=20):
    """Between the parameters and running statistics of both after some steps."""
    order = new_order()[: steps * BATCH]
    theirs, ours = new_model(), new_model()
    their_epoch(theirs, dataset, order)
    our_epoch(ours, digits, order)
    pairs = zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def seconds(epoch, images, order):
    model = new_model()
    start = time.perf_counter()
    epoch(model, images, order)
    return time.perf_counter() - start


def measure(rounds=ROUNDS):
    """Seconds per epoch of theirs and of ours, a pair per round."""
    dataset, digits = their_dataset(), train.mnist_tensors()
    difference = largest_difference(dataset, digits)
    if difference != 0:
        raise AssertionError(
            f"both train differently: parameters differ by {difference}"
        )
    order = new_order()
    return [
        (seconds(their_epoch, dataset, order), seconds(our_epoch, digits, order))
        for _ in range(rounds)
    ]


def main():
    torch.set_num_threads(THREADS)
    theirs, ours = map(statistics.median, zip(*measure(), strict=True))
    print(f"one epoch of {'-'.join(map(str, DIMS))} with batch norm, 60,000 images,")
    print(f"float32, {THREADS} threads, medians of {ROUNDS} interleaved rounds:")
    print(f"  torchvision + DataLoader({BATCH})  {theirs:6.2f} s")
    print(f"  tensors in memory             {ours:6.2f} s")
    print(f"  ratio                         {theirs / ours:6.2f}")
    print("equal parameters after 20 steps on the same batches: True")


if __name__ == "__main__":
    main()
