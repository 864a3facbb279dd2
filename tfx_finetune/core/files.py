"""Atomic writes, checksums and sizes of files and folders."""

import contextlib
import errno
import hashlib
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from tfx_finetune.core.errors import UserError

_MIN_FREE_BYTES = 1 << 20
_PART_SUFFIX = ".part"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the sorted relative paths and contents of a folder, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def compute_size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def compute_compressed_size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder, after compression by deflate, as in a ZIP archive."""
    total = 0
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            total += len(zlib.compress(file.read_bytes(), 6))
    return total


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` if the block succeeds, and is removed if it fails.

    The block may write a file or a folder there. A reader never sees an incomplete `path`.

    Raises:
        UserError: If the disk is full, which libraries report in many ways, or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_PART_SUFFIX, dir=path.parent))
    try:
        yield holder / path.name
        if path.is_dir():
            shutil.rmtree(path)
        (holder / path.name).replace(path)
    except UserError:
        raise
    except Exception as error:
        free = shutil.disk_usage(path.parent).free
        if free < _MIN_FREE_BYTES or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message, got = f"The disk has no space left for {path.name}", f"{free / 1e6:.0f} MB free in {path.parent}"
            raise UserError(message, got=got, hint="free some space, then run the command again") from error
        raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def remove_stale_parts(folder: Path, seconds: float = 0) -> None:
    """Remove the temporary folders that killed processes left in a folder and did not change for some seconds."""
    for path in list(folder.rglob(f".*{_PART_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= seconds:
                shutil.rmtree(path, ignore_errors=True)


def make_writable_folder(path: Path, purpose: str) -> Path:
    """Create a folder if it does not exist, and return its path.

    Args:
        path: Path of the folder.
        purpose: Use of the folder, for the error message.

    Raises:
        UserError: If the folder cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        hint = "choose another folder or change its permissions"
        raise UserError(f"The {purpose} cannot be written", got=f"{path} ({error.strerror})", hint=hint) from None
