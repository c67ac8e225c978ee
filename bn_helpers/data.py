"""The course's data sets, read from `data/` beside this package: no network.

Shapes, origin, licenses and how to restore a file: `data/README.md`.
"""

import contextlib
import gzip
import hashlib
import io
import struct
import uuid
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA = Path(__file__).resolve().parents[1] / "data"

# of the 60,000 training images scaled to [0, 1]; PyTorch's MNIST example uses the same
MNIST_MEAN = 0.1307
MNIST_STD = 0.3081

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class DataError(RuntimeError):
    """A data file is missing or damaged; the message says which and how to restore."""


class Data(NamedTuple):
    """Images and their labels for training and test, all four arrays, or tensors."""

    x_train: object
    y_train: object
    x_test: object
    y_test: object


class Cifar10Small(NamedTuple):
    """Part of CIFAR-10: images (N, 3, 32, 32) and labels (N,), uint8."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray


def load_mnist() -> Data:
    """Load the 60,000 training and 10,000 test digits.

    The first call verifies the archives' sha256 sums and unpacks them beside
    themselves, as torchvision does. Later calls read the unpacked files, compare
    their CRC-32 with the archives', and unpack again what does not agree. In a
    read-only folder every call unpacks in memory.

    Returns:
        `Data(x_train, y_train, x_test, y_test)`: images (60000, 28, 28) and
        (10000, 28, 28), 0 is background; labels (60000,) and (10000,); all uint8.
        The arrays are yours to change.
    Raises:
        DataError: an archive is missing or damaged.
    Source:
        LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    Agrees with:
        `torchvision.datasets.MNIST`, pixel by pixel.
    """
    return Data(
        _read_idx("train-images-idx3-ubyte"),
        _read_idx("train-labels-idx1-ubyte"),
        _read_idx("t10k-images-idx3-ubyte"),
        _read_idx("t10k-labels-idx1-ubyte"),
    )


def mnist_batch(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a mini-batch of n different MNIST training images.

    x = pixels / 255, flattened to (n, 784), so every x is in [0, 1].

    Args:
        n: batch size, from 1 to 60000.
        seed: the same seed gives the same batch.
    Returns:
        x: float64 (n, 784).
        y: int64 (n,), the digits 0 to 9.
    Raises:
        ValueError: n is outside 1 to 60000.
        DataError: an archive is missing or damaged.
    """
    if not 1 <= n <= 60_000:
        raise ValueError(f"mnist_batch: n must be from 1 to 60000, got {n}")
    rows = np.random.default_rng(seed).choice(60_000, size=n, replace=False)
    images = _read_idx("train-images-idx3-ubyte")[rows]
    labels = _read_idx("train-labels-idx1-ubyte")[rows]
    return images.reshape(n, 784) / 255.0, labels.astype(np.int64)


def mnist_tensors(dtype=None) -> Data:
    """All of MNIST as tensors, scaled as torchvision's transforms scale it.

        x = (pixels / 255 - 0.1307) / 0.3081

    Args:
        dtype: of the images, torch.float32 (if None) or torch.float64.
    Returns:
        `Data` of tensors: images (60000, 784) and (10000, 784), labels int64.
    Raises:
        DataError: an archive is missing or damaged.
        ImportError: PyTorch is not installed.
    Agrees with:
        torchvision's MNIST with ToTensor and Normalize, bit for bit.
    """
    import torch

    x_train, y_train, x_test, y_test = map(torch.from_numpy, load_mnist())
    return Data(
        _standardized(x_train, dtype or torch.float32),
        y_train.long(),
        _standardized(x_test, dtype or torch.float32),
        y_test.long(),
    )


def _standardized(pixels, dtype):
    return pixels.flatten(1).to(dtype).div_(255).sub_(MNIST_MEAN).div_(MNIST_STD)


@cache
def small_mnist(n_train: int = 20_000) -> Data:
    """MNIST made small: the first images, as 14 x 14 means, standardized.

    Args:
        n_train: training images, up to 60000.
    Returns:
        `Data` of read-only arrays: float64 images (n_train, 196) and (10000, 196),
        shifted and scaled by one mean and one deviation of all training pixels; labels
        int64.
    Raises:
        DataError: an archive is missing or damaged.
    """
    x_train, y_train, x_test, y_test = load_mnist()
    x_train, x_test = _pooled(x_train[:n_train]), _pooled(x_test)
    mean, std = x_train.mean(), x_train.std()
    arrays = Data(
        (x_train - mean) / std,
        y_train[:n_train].astype(np.int64),
        (x_test - mean) / std,
        y_test.astype(np.int64),
    )
    for array in arrays:
        array.setflags(write=False)
    return arrays


def _pooled(images):
    """(N, 28, 28) as (N, 196): the means of 2 x 2 pixels."""
    return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)


def load_cifar10_small() -> Cifar10Small:
    """Load 2,000 training and 1,000 validation images of CIFAR-10.

    Every call verifies the file's sha256 sum: that costs less than decompressing.

    Returns:
        `Cifar10Small(x_train, y_train, x_val, y_val)`: images (2000, 3, 32, 32) and
        (1000, 3, 32, 32), channels red, green, blue; labels (2000,) and (1000,),
        indices into `CIFAR10_CLASSES`; all uint8. The arrays are yours to change.
    Raises:
        DataError: the file is missing or damaged.
    Source:
        Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
        Training images 0 to 1999 and 49000 to 49999 of the official order.
    """
    with np.load(io.BytesIO(_verified("cifar10_small.npz"))) as arrays:
        return Cifar10Small(**arrays)


def _verified(name: str) -> bytes:
    """The bytes of data/<name>, proved against checksums.txt."""
    expected = _checksums()[name]
    path = DATA / name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {_how_to_restore(name)}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is damaged: expected sha256 {expected}, found {found}. "
            f"{_how_to_restore(name)}"
        )
    return content


def _checksums() -> dict[str, str]:
    lines = (DATA / "checksums.txt").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in map(str.split, lines)}


def _how_to_restore(name: str) -> str:
    return (
        f"In the course's folder run: git checkout -- data/{name} "
        "(without git, copy this file from a fresh download of the course)."
    )


def _read_idx(stem: str) -> np.ndarray:
    """One idx file: two zeros, type code, ndim, then big-endian sizes and pixels."""
    raw = _unpacked(stem)
    if raw is None:
        raw = _unpack(stem)
    start = 4 + 4 * int(raw[3])
    return raw[start:].reshape(raw[4:start].view(">u4"))


def _unpacked(stem: str) -> np.ndarray | None:
    """The unpacked file, if it has the length and CRC-32 its archive ends with."""
    folder = DATA / "MNIST" / "raw"
    try:
        with (folder / f"{stem}.gz").open("rb") as archive:
            archive.seek(-8, io.SEEK_END)
            crc, size = struct.unpack("<II", archive.read())
        raw = np.fromfile(folder / stem, np.uint8)
    except OSError:
        return None
    return raw if (zlib.crc32(raw), raw.size) == (crc, size) else None


def _unpack(stem: str) -> np.ndarray:
    name = f"MNIST/raw/{stem}"
    content = gzip.decompress(_verified(f"{name}.gz"))
    _store(DATA / name, content)
    return np.frombuffer(bytearray(content), np.uint8)


def _store(path: Path, content: bytes) -> None:
    """Write in one step: no reader, in any process, ever meets half a file."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    # a read-only folder, a full disk: the copy in memory serves as well
    with contextlib.suppress(OSError):
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
