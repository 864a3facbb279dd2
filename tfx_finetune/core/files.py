"""Files that are whole or absent, and their checksums."""

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
    """SHA-256 of a file, or of a folder's sorted relative paths and contents, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def compute_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def compute_compressed_size(path: Path) -> int:
    """Bytes that a file, or the files of a folder, take when deflated, as an archive for download has them."""
    total = 0
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            total += len(zlib.compress(file.read_bytes(), 6))
    return total


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, moved there if the block succeeds, removed if it does not.

    The block may write a file or a folder there. A reader never sees a half-written `path`.

    Raises:
        UserError: The disk is full; libraries report that in many ways, or not at all.
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
            what = f"no space left for {path.name}"
            received = f"{free / 1e6:.0f} MB free in {path.parent}"
            raise UserError(what, got=received, hint="make room, then run the command again") from error
        raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def remove_stale_parts(folder: Path, seconds: float = 0) -> None:
    """Removes what killed processes left half-written under a folder and did not touch for so many seconds."""
    for path in list(folder.rglob(f".*{_PART_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= seconds:
                shutil.rmtree(path, ignore_errors=True)


def make_writable_folder(path: Path, purpose: str) -> Path:
    """Makes `path` and returns it.

    Raises:
        UserError: It cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        todo = "choose another folder or mend its permissions"
        raise UserError(f"cannot write to the {purpose}", got=f"{path} ({error.strerror})", hint=todo) from None
