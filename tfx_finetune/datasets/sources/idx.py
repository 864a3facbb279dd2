"""Source of data sets in MNIST's IDX file format: four files, gzipped or not."""

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.types.components import SOURCES, Source

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Names of the image file and the label file of each split."""
CLASSES = {
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
}
"""Class names of the packages whose classes are not digits."""


def _stack_neighborhood(images: np.ndarray) -> list[np.ndarray]:
    """Return the 9 shifted copies of images (n, height, width, 1) that hold the 3 by 3 neighborhood of each pixel.

    Pixels outside the image repeat its edge.
    """
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    return [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "inverted": lambda images: 255 - images,
    "blurred": lambda images: (np.add.reduce(_stack_neighborhood(images), dtype=np.uint16) // 9).astype(np.uint8),
    "thick": lambda images: np.maximum.reduce(_stack_neighborhood(images)),
}
"""Transforms of uint8 images (n, height, width, 1), by name."""


@SOURCES.register
def idx(
    path: str = "",
    package: str = "",
    classes: tuple[str, ...] = (),
    limit: int = 0,
    transform: tuple[str, ...] = (),
) -> Source:
    """Read MNIST or a data set in its format (http://yann.lecun.com/exdb/mnist): gray images and class numbers.

    Args:
        path: Folder with train-images-idx3-ubyte and its three companions, each gzipped or not.
        package: Package that contains the files, instead of a path: `mnist` or `fashion-mnist`.
        classes: Names of the classes 0, 1, ... Default: their numbers.
        limit: int >= 0. Number of samples to take from the beginning of each part. Default 0: all.
        transform: Transforms of every image, in order, which make another data set of the same classes: `inverted`,
            `blurred` (mean of 3 by 3 pixels), `thick` (maximum of 3 by 3 pixels).

    Raises:
        UserError: If a file is missing, has another format or is incomplete.
    """
    if bool(path) == bool(package):
        raise UserError("idx() needs either a path or a package", got=f"path={path!r}, package={package!r}")
    if limit < 0:
        raise UserError("limit of idx() is negative", got=limit, expected="a number of samples, or 0 for all")
    for name in transform:
        if name not in TRANSFORMS:
            hint = did_you_mean(name, TRANSFORMS)
            raise UserError("idx() has no such transform", got=name, expected=TRANSFORMS, hint=hint)
    folder = assets.fetch(package) if package else Path(path).expanduser()
    arrays = {part: _read_images_and_labels(folder, *names, limit or None) for part, names in FILES.items()}
    used_numbers = np.unique(np.concatenate([numbers for _, numbers in arrays.values()]))
    class_names = classes or CLASSES.get(package, ())
    if class_names and used_numbers.max(initial=0) >= len(class_names):
        raise UserError("A class number has no name", got=used_numbers.max(), expected=class_names)
    name_of_class = dict(enumerate(class_names)) or {number: str(number) for number in used_numbers}
    parts = {}
    for part, (images, numbers) in arrays.items():
        for name in transform:
            images = TRANSFORMS[name](images)
        files = [f"{part}/{index}" for index in range(len(numbers))]
        parts[part] = {"image": images, "label": [name_of_class[number] for number in numbers], "file": files}
    source_name = "_".join([package or folder.resolve().name, *transform])
    return InMemorySource(source_name, tuple(name_of_class.values()), (), parts)


def _read_images_and_labels(
    folder: Path, images_name: str, labels_name: str, limit: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Read images (n, height, width, 1) and class numbers (n,)."""
    images, numbers = read_idx(_require_file(folder, images_name), 3), read_idx(_require_file(folder, labels_name), 1)
    if len(images) != len(numbers):
        raise UserError("Numbers of images and labels differ", got=f"{folder}: {len(images)}, {len(numbers)}")
    return images[:limit, ..., None], numbers[:limit]


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes; a file that is not gzipped is memory-mapped.

    Args:
        path: File in the IDX format.
        rank: Number of dimensions that the file must have.

    Raises:
        UserError: If the file has another format or rank, or another length than it states.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            header = stream.read(4 + 4 * rank)
            content = stream.read() if path.suffix == ".gz" else b""
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("Cannot read the IDX file", got=f"{path} ({error})") from None
    if len(header) < 4 + 4 * rank or header[:4] != bytes((0, 0, 8, rank)):
        raise UserError("Not an IDX file of bytes", got=path, expected=f"magic number {0x800 + rank}")
    shape = struct.unpack(f">{rank}I", header[4:])
    size = len(content) if path.suffix == ".gz" else path.stat().st_size - len(header)
    if size != math.prod(shape):
        raise UserError("The length of the IDX file differs from its header", got=path, expected=f"{shape} bytes")
    if path.suffix == ".gz":
        return np.frombuffer(content, np.uint8).reshape(shape)
    return np.memmap(path, np.uint8, "r", len(header), shape)


def find_file(folder: Path, name: str) -> Path | None:
    """Find an IDX file, gzipped or not; some copies of MNIST are named `.idx` instead of `-idx`."""
    spellings = (f"{stem}{suffix}" for stem in (name, name.replace("-idx", ".idx")) for suffix in ("", ".gz"))
    return next((folder / spelling for spelling in spellings if (folder / spelling).is_file()), None)


def _require_file(folder: Path, name: str) -> Path:
    path = find_file(folder, name)
    if path is None:
        raise UserError("An IDX file is missing", got=folder / name, expected=f"{name} or {name}.gz")
    return path
