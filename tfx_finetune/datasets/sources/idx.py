"""MNIST's own file format: four files, gzipped or not."""

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
CLASSES = {
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
}


def _stack_neighborhood(images: np.ndarray) -> list[np.ndarray]:
    """Each pixel (n, height, width, 1) and its eight neighbours, those outside being the nearest one inside."""
    wide = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    return [wide[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "inverted": lambda images: 255 - images,
    "blurred": lambda images: (np.add.reduce(_stack_neighborhood(images), dtype=np.uint16) // 9).astype(np.uint8),
    "thick": lambda images: np.maximum.reduce(_stack_neighborhood(images)),
}
"""What can be done to the pictures: uint8 (n, height, width, 1) -> the same."""


@SOURCES.register
def idx(
    path: str = "",
    package: str = "",
    classes: tuple[str, ...] = (),
    limit: int = 0,
    transform: tuple[str, ...] = (),
) -> Source:
    """MNIST and data sets in its format (http://yann.lecun.com/exdb/mnist): grey pictures and class numbers.

    Args:
        path: A folder with train-images-idx3-ubyte and its three companions, each gzipped or not.
        package: In place of a path, a package that brings them: `mnist` or `fashion-mnist`.
        classes: Names of the classes 0, 1, ...; by default the numbers.
        limit: Take only so many samples of each part, from its front; 0 takes all.
        look: Changes of every picture, in order, which make of the data another one of the same classes: `inverted`,
            `blurred` (the mean of 3 by 3 pixels), `thick` (their brightest).

    Raises:
        UserError: A file is missing, is not in this format, or is cut off.
    """
    if bool(path) == bool(package):
        raise UserError("idx wants either a path or a package", got=f"path={path!r}, package={package!r}")
    if limit < 0:
        raise UserError("limit of idx is negative", got=limit, expected="a number of samples, or 0 for all")
    for change in transform:
        if change not in TRANSFORMS:
            raise UserError(
                "no such look of idx", got=change, expected=TRANSFORMS, hint=did_you_mean(change, TRANSFORMS)
            )
    folder = assets.fetch(package) if package else Path(path).expanduser()
    arrays = {part: _read_pair(folder, *files, limit or None) for part, files in FILES.items()}
    used = np.unique(np.concatenate([numbers for _, numbers in arrays.values()]))
    names = classes or CLASSES.get(package, ())
    if names and used.max(initial=0) >= len(names):
        raise UserError("a class has no name", got=used.max(), expected=names)
    name = dict(enumerate(names)) or {number: str(number) for number in used}
    parts = {}
    for part, (images, numbers) in arrays.items():
        for change in transform:
            images = TRANSFORMS[change](images)
        file = [f"{part}/{position}" for position in range(len(numbers))]
        parts[part] = {"image": images, "label": [name[number] for number in numbers], "file": file}
    return InMemorySource("_".join([package or folder.resolve().name, *transform]), tuple(name.values()), (), parts)


def _read_pair(folder: Path, images_name: str, labels_name: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Reads pictures (n, height, width, 1) and class numbers (n,)."""
    images, numbers = read_idx(_require_file(folder, images_name), 3), read_idx(_require_file(folder, labels_name), 1)
    if len(images) != len(numbers):
        raise UserError("pictures and labels differ in number", got=f"{folder}: {len(images)}, {len(numbers)}")
    return images[:limit, ..., None], numbers[:limit]


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads one idx file of unsigned bytes; memory-mapped where it is not gzipped.

    Raises:
        UserError: It is not such a file, of another rank, or not of the length that it states.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(4 + 4 * rank)
            content = stream.read() if path.suffix == ".gz" else b""
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("cannot read an idx file", got=f"{path} ({error})") from None
    if len(head) < 4 + 4 * rank or head[:4] != bytes((0, 0, 8, rank)):
        raise UserError("not an idx file of bytes", got=path, expected=f"magic number {0x800 + rank}")
    shape = struct.unpack(f">{rank}I", head[4:])
    size = len(content) if path.suffix == ".gz" else path.stat().st_size - len(head)
    if size != math.prod(shape):
        raise UserError("an idx file of another length than it states", got=path, expected=f"{shape} bytes")
    if path.suffix == ".gz":
        return np.frombuffer(content, np.uint8).reshape(shape)
    return np.memmap(path, np.uint8, "r", len(head), shape)


def find_file(folder: Path, name: str) -> Path | None:
    """The file of this name, gzipped or not; a dot may stand where MNIST's own names have the first hyphen of -idx."""
    spellings = (f"{stem}{ending}" for stem in (name, name.replace("-idx", ".idx")) for ending in ("", ".gz"))
    return next((folder / spelling for spelling in spellings if (folder / spelling).is_file()), None)


def _require_file(folder: Path, name: str) -> Path:
    path = find_file(folder, name)
    if path is None:
        raise UserError("a file of MNIST's format is missing", got=folder / name, expected=f"{name} or {name}.gz")
    return path
