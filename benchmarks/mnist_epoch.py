"""One epoch of lesson 04's batch-norm network on MNIST, loaded in two ways.

Theirs: torchvision's dataset, ToTensor and Normalize per image, a DataLoader, and
torch.optim.SGD. Ours: `bn_experiments.train`, tensors in memory. Both see the same
batches and do the same arithmetic, which is verified before anything is timed.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from bn_experiments import train
from bn_helpers import data

from .table import Row, matrix_product, measure

DIMS = (784, 256, 256, 256, 256, 10)
BATCH = 128
LR = 0.1
IMAGES = 60_000
ROUNDS = 3


def new_model():
    torch.manual_seed(0)
    return train.make_mlp(DIMS, nn.Sigmoid, nn.BatchNorm1d)


def new_order(images):
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    return order[:images]


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
    order = new_order(steps * BATCH)
    theirs, ours = new_model(), new_model()
    their_epoch(theirs, dataset, order)
    our_epoch(ours, digits, order)
    pairs = zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def flops(images):
    """Of an epoch's matrix products: forward, weights' and inputs' gradients."""
    pairs = [fan_in * fan_out for fan_in, fan_out in pairwise(DIMS)]
    return 2 * images * (3 * sum(pairs) - pairs[0])  # the images need no gradient


def rows(say, images=IMAGES, rounds=ROUNDS):
    say("comparing 20 training steps of both")
    dataset, digits = their_dataset(), data.mnist_tensors()
    difference = largest_difference(dataset, digits)
    if difference != 0:
        raise RuntimeError(f"both train differently: parameters differ by {difference}")
    order, product = new_order(images), matrix_product("torch", torch.float32)
    calls = {
        "theirs": lambda: their_epoch(new_model(), dataset, order),
        "ours": lambda: our_epoch(new_model(), digits, order),
        "product": product.call,
    }
    seconds = measure(calls, rounds, warm=False, say=say)
    yield Row(
        work=f"one epoch of {'-'.join(map(str, DIMS))} with batch norm on MNIST, "
        f"{images:,} images",
        dtype="float32",
        peer=f"torchvision dataset, transforms, DataLoader({BATCH})",
        theirs=seconds["theirs"],
        ours=seconds["ours"],
        floor=5,
        flops=flops(images),
        ceiling=product.flops / seconds["product"],
    )
