"""The data sets: published facts, torchvision as the reference, damage and repair."""

import hashlib
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision import datasets, transforms

from bn_helpers import data

ROOT = Path(__file__).resolve().parents[1]
ARCHIVES = sorted(path.name for path in (data.DATA / "MNIST" / "raw").glob("*.gz"))

# counts of the digits 0 to 9, as published for MNIST
TRAIN_DIGITS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_DIGITS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A data folder as it comes from a clone; `bn_helpers.data` reads it."""
    folder = tmp_path / "data with ümlaut"
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for name in ["checksums.txt", "cifar10_small.npz", *_tracked_mnist()]:
        shutil.copyfile(data.DATA / name, folder / name)
    monkeypatch.setattr(data, "DATA", folder)
    yield folder
    shutil.rmtree(folder)  # 75 MB, for every test


def _tracked_mnist():
    return [f"MNIST/raw/{name}" for name in ARCHIVES]


def _files(folder):
    return sorted(path.name for path in (folder / "MNIST" / "raw").iterdir())


def _unpacked_and_archives():
    return sorted([*ARCHIVES, *(name.removesuffix(".gz") for name in ARCHIVES)])


def _flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# what the arrays hold


def test_mnist_matches_the_published_facts():
    mnist = data.load_mnist()
    assert [a.shape for a in mnist] == [
        (60000, 28, 28),
        (60000,),
        (10000, 28, 28),
        (10000,),
    ]
    assert {a.dtype for a in mnist} == {np.dtype(np.uint8)}
    assert np.bincount(mnist.y_train).tolist() == TRAIN_DIGITS
    assert np.bincount(mnist.y_test).tolist() == TEST_DIGITS
    assert mnist.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    pixels = mnist.x_train.astype(np.float32) / 255
    assert round(float(pixels.mean(dtype=np.float64)), 4) == data.MNIST_MEAN
    assert round(float(pixels.std(dtype=np.float64)), 4) == data.MNIST_STD


def test_cifar_matches_the_published_facts():
    cifar = data.load_cifar10_small()
    assert [a.shape for a in cifar] == [
        (2000, 3, 32, 32),
        (2000,),
        (1000, 3, 32, 32),
        (1000,),
    ]
    assert {a.dtype for a in cifar} == {np.dtype(np.uint8)}
    assert cifar.y_train[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    first = [data.CIFAR10_CLASSES[label] for label in cifar.y_train[:5]]
    assert first == ["frog", "truck", "truck", "deer", "automobile"]
    for images in (cifar.x_train, cifar.x_val):
        # channel means of all 50,000 training images
        np.testing.assert_allclose(
            images.mean((0, 2, 3)), [125.3, 123.0, 113.9], atol=1.5
        )


@pytest.mark.parametrize("load", [data.load_mnist, data.load_cifar10_small])
def test_a_student_may_change_the_arrays(copy, load):
    for _ in ["unpacked just now", "unpacked before"]:
        for array in load():
            assert (array[0] != 255).any()
            array[0] = 255


@pytest.mark.parametrize("n", [1, 128])
def test_mnist_batch(n):
    x, y = data.mnist_batch(n, seed=0)
    assert (x.shape, x.dtype, y.shape, y.dtype) == (
        (n, 784),
        np.float64,
        (n,),
        np.int64,
    )
    assert x.min() == 0 and 0.9 < x.max() <= 1
    same_x, same_y = data.mnist_batch(n, seed=0)
    assert np.array_equal(x, same_x) and np.array_equal(y, same_y)
    assert not np.array_equal(x, data.mnist_batch(n, seed=1)[0])


def test_mnist_batch_draws_different_images_with_their_own_labels():
    x, y = data.mnist_batch(5_000, seed=3)
    mnist = data.load_mnist()
    digit_of = {
        image.tobytes(): label
        for image, label in zip(mnist.x_train, mnist.y_train, strict=True)
    }
    drawn = [image.tobytes() for image in np.round(x * 255).astype(np.uint8)]
    assert len(set(drawn)) == 5_000
    assert [digit_of[image] for image in drawn] == y.tolist()


@pytest.mark.parametrize("n", [0, -1, 60_001])
def test_mnist_batch_refuses_an_impossible_size(n):
    with pytest.raises(ValueError, match=f"n must be from 1 to 60000, got {n}"):
        data.mnist_batch(n, seed=0)


# torchvision, the reference nobody here wrote


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_torchvision_accepts_the_archives_and_agrees(copy, no_network):
    """Its list of md5 sums proves the archives, its reader the pixels."""
    datasets = pytest.importorskip("torchvision.datasets")
    train = datasets.MNIST(copy, train=True, download=True)
    test = datasets.MNIST(copy, train=False, download=True)
    mnist = data.load_mnist()
    assert np.array_equal(mnist.x_train, train.data.numpy())
    assert np.array_equal(mnist.y_train, train.targets.numpy())
    assert np.array_equal(mnist.x_test, test.data.numpy())
    assert np.array_equal(mnist.y_test, test.targets.numpy())
    assert _files(copy) == _unpacked_and_archives()


def test_torchvision_finds_the_files_we_unpacked(copy, no_network):
    from torchvision.datasets import MNIST

    mnist = data.load_mnist()
    assert np.array_equal(mnist.x_test, MNIST(copy, train=False).data.numpy())


def test_without_the_archives_torchvision_would_use_the_network(tmp_path, no_network):
    """So the two tests above prove something."""
    from torchvision.datasets import MNIST

    with pytest.raises(AssertionError, match="the network was used"):
        MNIST(tmp_path, download=True)


# checksums and damage


def test_checksums_name_exactly_the_data_files():
    lines = (data.DATA / "checksums.txt").read_text(encoding="utf-8").splitlines()
    digests = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert sorted(digests) == sorted([*_tracked_mnist(), "cifar10_small.npz"])
    for name, digest in digests.items():
        assert hashlib.sha256((data.DATA / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("name", "position"),
    [
        *((name, 1000) for name in [*_tracked_mnist(), "cifar10_small.npz"]),
        ("MNIST/raw/t10k-labels-idx1-ubyte.gz", 0),
        ("MNIST/raw/t10k-labels-idx1-ubyte.gz", -1),
    ],
)
def test_a_damaged_file_is_named_with_both_sums_and_the_way_back(copy, name, position):
    path = copy / name
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    _flip_byte(path, position)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    load = data.load_cifar10_small if name.endswith(".npz") else data.load_mnist
    with pytest.raises(data.DataError) as caught:
        load()
    for part in (str(path), expected, found, f"git checkout -- data/{name}"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "name", ["MNIST/raw/t10k-labels-idx1-ubyte.gz", "cifar10_small.npz"]
)
@pytest.mark.parametrize(
    "content", [None, b"", b"short"], ids=["absent", "empty", "short"]
)
def test_a_missing_or_cut_file_is_named(copy, name, content):
    path = copy / name
    path.unlink() if content is None else path.write_bytes(content)
    load = data.load_cifar10_small if name.endswith(".npz") else data.load_mnist
    problem = "is missing" if content is None else "is damaged"
    with pytest.raises(data.DataError, match=problem) as caught:
        load()
    assert str(path) in str(caught.value)
    assert f"git checkout -- data/{name}" in str(caught.value)


# unpacking


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _change_a_pixel(path):
    _flip_byte(path, 5000)


def _change_the_header(path):
    _flip_byte(path, 7)


def _append(path):
    path.write_bytes(path.read_bytes() + b"\0")


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [_cut, _change_a_pixel, _change_the_header, _append, _empty, Path.unlink]
)
def test_a_bad_unpacked_file_is_unpacked_again(copy, damage):
    """Torchvision unpacks in place, so an interrupt there leaves half a file here."""
    good = data.load_mnist()
    unpacked = copy / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = unpacked.read_bytes()
    damage(unpacked)
    assert np.array_equal(data.load_mnist().x_test, good.x_test)
    assert unpacked.read_bytes() == content
    assert _files(copy) == _unpacked_and_archives()


def test_archives_are_verified_once(copy, monkeypatch):
    data.load_mnist()
    monkeypatch.setattr(data, "_verified", None)
    assert len(data.load_mnist().y_test) == 10_000


@pytest.mark.parametrize("call", ["write_bytes", "replace"])
def test_a_folder_we_may_not_write_to(copy, monkeypatch, call):
    """Also Windows, where a file that somebody reads cannot be replaced."""

    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, call, refuse)
    assert np.bincount(data.load_mnist().y_test).tolist() == TEST_DIGITS
    assert _files(copy) == ARCHIVES


def test_an_interrupted_unpack_leaves_nothing_half_done(copy, monkeypatch):
    def interrupt(path, content):
        with path.open("wb") as file:
            file.write(content[:1000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            data.load_mnist()
    assert _files(copy) == ARCHIVES
    assert np.bincount(data.load_mnist().y_train).tolist() == TRAIN_DIGITS


FIRST_LOAD = """
import sys
from pathlib import Path
from bn_helpers import data

data.DATA = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print([int(array.sum()) for array in data.load_mnist()])
"""


def test_two_kernels_may_load_first_at_once(copy):
    """Both wait behind one line of input, then unpack into the same folder."""
    command = [sys.executable, "-c", FIRST_LOAD, str(copy)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    kernels = [
        subprocess.Popen(command, cwd=ROOT, text=True, encoding="utf-8", **pipes)
        for _ in range(2)
    ]
    for kernel in kernels:
        assert kernel.stdout.readline() == "ready\n"
    for kernel in kernels:
        kernel.stdin.write("go\n")
        kernel.stdin.flush()
    printed = {kernel.communicate(timeout=60)[0].strip() for kernel in kernels}
    assert printed == {str([int(array.sum()) for array in data.load_mnist()])}
    assert _files(copy) == _unpacked_and_archives()


def test_data_is_found_from_any_folder_without_torch(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from bn_helpers import data\n"
        "print(len(data.load_mnist().y_train), 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("60000 False\n", "")


# ready to train on


@pytest.fixture(scope="module")
def torchvision_mnist():
    data.load_mnist()  # unpacks the files torchvision looks for
    scale = transforms.Normalize((data.MNIST_MEAN,), (data.MNIST_STD,))
    both = transforms.Compose([transforms.ToTensor(), scale])
    return [
        datasets.MNIST(data.DATA, train=part, transform=both, download=False)
        for part in (True, False)
    ]


@pytest.mark.parametrize("part", [0, 1])
def test_images_equal_torchvisions_bit_for_bit(torchvision_mnist, part):
    digits = data.mnist_tensors()
    x, y = digits[2 * part : 2 * part + 2]
    assert len(x) == len(torchvision_mnist[part])
    for row in range(0, len(x), 331):
        image, label = torchvision_mnist[part][row]
        assert torch.equal(x[row], image.flatten())
        assert y[row] == label


def test_every_gray_level_equals_torchvisions(torchvision_mnist):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    want = torchvision_mnist[0].transform(levels[..., None]).flatten()
    assert torch.equal(
        data._standardized(torch.from_numpy(levels[None]), torch.float32)[0], want
    )


def test_float64_images_are_the_formula():
    x = data.mnist_tensors(torch.float64).x_test[:50].numpy()
    pixels = data.load_mnist().x_test[:50].reshape(50, 784)
    want = (pixels / 255 - data.MNIST_MEAN) / data.MNIST_STD
    np.testing.assert_allclose(x, want, rtol=1e-14)


def test_small_mnist_is_pooled_and_standardized():
    digits = data.small_mnist(1000)
    assert digits.x_train.shape == (1000, 196) and digits.x_test.shape == (10_000, 196)
    assert abs(digits.x_train.mean()) < 1e-12
    assert abs(digits.x_train.var() - 1) < 1e-12
    raw = torch.from_numpy(data.load_mnist().x_train[:1000]).double()
    pooled = F.avg_pool2d(raw, 2).flatten(1)
    want = (pooled - pooled.mean()) / pooled.std(unbiased=False)
    np.testing.assert_allclose(digits.x_train, want)
    with pytest.raises(ValueError, match="read-only"):
        digits.x_train[0] = 0
