"""Checks for packages of weights and data: installed or cached ones, and obstacles to downloading others."""

import importlib.util
import shutil
from pathlib import Path

from tfx_finetune.core import assets
from tfx_finetune.core.catalog import ASSETS
from tfx_finetune.doctor.diagnosis import Diagnosis

_REGISTRIES = {"PyPI": ("pypi", "sdist"), "npm": ("npm",), "Debian": ("debian",)}
_APT_LISTS = Path("/var/lib/apt/lists")


def check_all() -> list[Diagnosis]:
    """Check the packages of every registry."""
    return [_check_registry(*item) for item in _REGISTRIES.items()]


def _check_registry(registry: str, kinds: tuple[str, ...]) -> Diagnosis:
    names = [name for name, asset in ASSETS.items() if asset.registry in kinds]
    local = [name for name in names if assets.find_local(name)]
    missing = [name for name in names if name not in local]
    subject, message = f"from {registry}", f"{len(local)} of {len(names)} packages are on this machine"
    if not missing:
        return Diagnosis(subject, "ok", message)
    message += f" ({', '.join(local)})" * bool(local)
    obstacle, hint = _find_obstacle(registry)
    if not obstacle:
        return Diagnosis(subject, "ok", f"{message}; the others are downloaded when needed")
    # EfficientNet-Lite0 is the default backbone of images.
    state = "warning" if "efficientnet-lite0" in missing else "optional"
    return Diagnosis(subject, state, f"{message}; {obstacle}", f"{hint} to use {', '.join(missing)}")


def _find_obstacle(registry: str) -> tuple[str, str]:
    """Return the reason why packages of a registry cannot be downloaded, and what to do; empty if they can."""
    if registry == "PyPI":
        missing = not importlib.util.find_spec("pip")
        return ("pip, which downloads the others, is not installed", "run python -m ensurepip") if missing else ("", "")
    clients = {"npm": ["npm"], "Debian": ["apt-get", "dpkg-deb"]}[registry]
    if absent := [client for client in clients if not shutil.which(client)]:
        return f"{absent[0]}, which downloads the others, is not installed", f"install {absent[0]}"
    if registry == "Debian" and not any(_APT_LISTS.glob("*_Packages*")):
        return "apt-get has no package lists", "run apt-get update as root"
    return "", ""
