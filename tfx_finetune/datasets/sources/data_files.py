"""Files of data sets: suffixes by modality, spellings of the splits, and search in folders."""

import os
from collections.abc import Iterable
from pathlib import Path

from tfx_finetune.core.errors import UserError

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Splits by their spellings in lower case."""
FILE_SUFFIXES = {
    "image": (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp"),
    "audio": (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    "text": (".txt",),
}
"""Suffixes of the files that can be read, by modality."""
# Files that cannot be read are samples too: reading them fails, so they are counted and listed, not overlooked.
_UNSUPPORTED_SUFFIXES = {
    "image": (".heic", ".heif", ".avif", ".tif", ".tiff", ".jp2", ".jxl"),
    "audio": (".m4a", ".aac", ".wma", ".amr"),
    "text": (),
}
# Folders of copies and thumbnails that macOS archives and Synology drives add.
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")


def resolve_folder(path: str) -> Path:
    """Return an existing folder; `~` is the home folder.

    Raises:
        UserError: If there is no such folder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError("Not a folder" if folder.exists() else "No such folder", got=path)
    return folder


def find_files(folder: Path) -> dict[str, list[Path]]:
    """Find the files below a folder by modality, sorted.

    Links are followed. Hidden files and files of the system are ignored.
    """
    files: dict[str, list[Path]] = {modality: [] for modality in FILE_SUFFIXES}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise_error):
        folders[:] = [name for name in folders if not is_hidden(name) and not _is_loop(Path(parent, name))]
        for name in names:
            if not is_hidden(name) and (modality := infer_modality(name)):
                files[modality].append(Path(parent, name))
    return {modality: sorted(paths) for modality, paths in files.items()}


def find_images(folder: Path) -> list[Path]:
    """Find the image files below a folder, sorted; see `find_files`."""
    return find_files(folder)["image"]


def list_split_folders(folder: Path) -> list[Path]:
    """Return the sub-folders, sorted, if all of them are named after splits, else an empty list."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    return folders if all(path.name.lower() in SPLIT_NAMES for path in folders) else []


def map_files_by_name(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Map files by their path relative to a folder, without the suffix.

    Examples:
        >>> map_files_by_name(Path("a"), [Path("a/b/1.png")])  # doctest: +ELLIPSIS
        {'b/1': ...Path('a/b/1.png')}
    """
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def infer_modality(name: str) -> str:
    """Return the modality of a file by its suffix, or an empty string if the suffix is unknown.

    Examples:
        >>> infer_modality("cat.JPG"), infer_modality("phone.m4a"), infer_modality("notes.doc")
        ('image', 'audio', '')
    """
    suffix = Path(name).suffix.lower()
    modalities = (name for name in FILE_SUFFIXES if suffix in FILE_SUFFIXES[name] + _UNSUPPORTED_SUFFIXES[name])
    return next(modalities, "")


def is_hidden(name: str) -> bool:
    """Return True if the name of a file or folder marks it as hidden or made by the system."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def format_path(path: str) -> str:
    """Return a path as valid UTF-8; bytes of other encodings become replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def _is_loop(folder: Path) -> bool:
    return folder.is_symlink() and folder.resolve() in (parent.resolve() for parent in folder.absolute().parents)


def _raise_error(error: OSError) -> None:
    raise error
