"""A source whose samples are rows of columns in memory: paths, texts and labels, or small arrays."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Spellings of the splits, in lower case."""
FILE_SUFFIXES = {
    "image": (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp"),
    "audio": (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    "text": (".txt",),
}
"""What files of each modality end in."""
# Files that cannot be read are samples too: reading them fails, so that they are counted and listed, not overlooked.
_UNSUPPORTED_SUFFIXES = {
    "image": (".heic", ".heif", ".avif", ".tif", ".tiff", ".jp2", ".jxl"),
    "audio": (".m4a", ".aac", ".wma", ".amr"),
    "text": (),
}
# Copies and thumbnails that macOS archives and Synology drives put among a person's files.
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")


@dataclass(frozen=True)
class InMemorySource:
    """A `Source` of columns held as arrays of one length.

    Attributes:
        name: Short name of the data.
        labels: Class names in order, where the data fixes it.
        paths: Columns that hold the path of a file.
        parts: Columns by part: {"all": {"image": ..., "label": ..., "file": ...}}; an empty text is a gap.
        notes: What was found in annotations, mended or left out, as it was said.
    """

    name: str
    labels: tuple[str, ...]
    paths: tuple[str, ...]
    parts: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in each part."""
        return {part: len(columns["file"]) for part, columns in self.parts.items()}

    def read(self, part: str) -> tf.data.Dataset:
        """Returns the samples of a part, in order."""
        columns = {name: _convert_to_tensor(values) for name, values in self.parts[part].items()}
        return tf.data.Dataset.from_tensor_slices(columns)

    def __getitem__(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the sample at a place, a scalar, among those of all parts in order."""
        return {name: tf.gather(values, index) for name, values in self._columns.items()}

    @functools.cached_property
    def _columns(self) -> dict[str, tf.Tensor]:
        parts = list(self.parts.values())
        with tf.init_scope():  # outside of a graph that asks first, as others will ask too
            return {name: tf.concat([_convert_to_tensor(part[name]) for part in parts], 0) for name in parts[0]}


def group_columns_by_split(records: Sequence[Mapping[str, str]]) -> dict[str, dict[str, list[str]]]:
    """Turns records into columns by part: the parts of their `split` values, or `all` where no record has one."""
    parts: dict[str, list[Mapping[str, str]]] = {}
    for record in records:
        parts.setdefault(record.get("split") or "all", []).append(record)
    names = [name for name in dict.fromkeys(key for record in records for key in record) if name != "split"]
    ordered = sorted(parts, key=["train", "val", "test", "all"].index)
    return {part: {name: [record.get(name, "") for record in parts[part]] for name in names} for part in ordered}


def find_files(folder: Path) -> dict[str, list[Path]]:
    """Files below a folder by modality, sorted; links are followed, hidden and system files left out."""
    files: dict[str, list[Path]] = {modality: [] for modality in FILE_SUFFIXES}
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise_error):
        folders[:] = [name for name in folders if not is_hidden(name) and not _is_loop(Path(place, name))]
        for name in names:
            if not is_hidden(name) and (modality := infer_modality(name)):
                files[modality].append(Path(place, name))
    return {modality: sorted(paths) for modality, paths in files.items()}


def find_images(folder: Path) -> list[Path]:
    """Picture files below a folder; see `found`."""
    return find_files(folder)["image"]


def list_split_folders(folder: Path) -> list[Path]:
    """The sub-folders, sorted, where all of them are named after splits; else none."""
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    return below if all(path.name.lower() in SPLIT_NAMES for path in below) else []


def map_files_by_name(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Files by their path in a folder, without ending."""
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def infer_modality(name: str) -> str:
    """The modality of a file, by its ending; empty where that says nothing."""
    ending = Path(name).suffix.lower()
    return next(
        (modality for modality, own in FILE_SUFFIXES.items() if ending in own + _UNSUPPORTED_SUFFIXES[modality]), ""
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name was put there by a program, not by a person."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def convert_to_text(value: Any) -> str:
    """A column's value, which TensorFlow gives as bytes where it is a text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def format_path(name: str) -> str:
    """A file's name as text: names that are not UTF-8 (archives made on Windows) get replacement characters."""
    return os.fsencode(name).decode("utf-8", "replace")


def _convert_to_tensor(values: Any) -> Any:
    return values if isinstance(values, np.ndarray) else tf.constant([_encode_path(value) for value in values])


def _encode_path(value: str) -> bytes:
    # Names of files that are not UTF-8 come as surrogates, which TensorFlow cannot encode by itself. JSON may hold any
    # other half of a pair, which stays broken, so that the survey tells of it.
    try:
        return os.fsencode(value)
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def _is_loop(folder: Path) -> bool:
    return folder.is_symlink() and folder.resolve() in (parent.resolve() for parent in folder.absolute().parents)


def _raise_error(error: OSError) -> None:
    raise error
