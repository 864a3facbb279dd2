"""A bundle's manifest.json: what was verified, read and checked without opening any of its files."""

import json
from pathlib import Path
from typing import Any

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError

VERSION = 2
"""Of the manifest's form; a bundle of another version is refused."""


def require_bundle_path(path: str | Path) -> Path:
    """The folder that a command is told of as its bundle.

    Raises:
        UserError: It is told of none.
    """
    if not path:
        raise UserError("no bundle given", hint="say --bundle=FOLDER, the folder bundle/ of a finished run")
    return Path(path).expanduser()


def read_manifest(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Reads a bundle's manifest and checks that every file is there and unchanged.

    Returns:
        The bundle's folder, and the manifest.

    Raises:
        UserError: None is given, it is no bundle, or a file is missing or altered.
    """
    path = require_bundle_path(path)
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        version = manifest["version"]
    except (OSError, ValueError, KeyError, TypeError):
        todo = "name the folder bundle/ of a finished run"
        raise UserError("not a bundle (it has no readable manifest.json)", got=path, hint=todo) from None
    if version != VERSION:
        todo = "use the tfx_finetune that wrote it"
        raise UserError("a bundle of another version", got=version, expected=VERSION, hint=todo)
    if "verified" not in manifest:
        raise UserError("a bundle whose run has not finished", got=path, hint="run its command again")
    for name, digest in manifest["sha256"].items():
        if not (path / name).is_file():
            raise UserError("a file of the bundle is missing", got=path / name, hint="run its command again")
        if files.sha256(path / name) != digest:
            todo = "it is not what was verified; run its command again"
            raise UserError("a file of the bundle was altered", got=path / name, hint=todo)
    return path, manifest


def read_network_manifest(path: str | Path, purpose: str) -> tuple[Path, dict[str, Any]]:
    """As `opened`, of a bundle whose Keras file is to be taken apart: `<path>/model.keras`, by manifest["network"].

    Args:
        path: The bundle's folder.
        purpose: What wants it, for messages.

    Raises:
        UserError: There is no such bundle, or it has no Keras file or does not say what this is made of.
    """
    path, manifest = read_manifest(path)
    if "keras" not in manifest["files"]:
        todo = f"python -m tfx_finetune.export --bundle={path} --exports=keras_file() writes it"
        what = f"{purpose} needs the bundle's Keras file, which holds the weights"
        raise UserError(what, got=f"{path} has {', '.join(manifest['files'])}", hint=todo)
    if manifest.get("compress"):
        what = f"{purpose} cannot take a compressed model, whose normalization is folded away"
        raise UserError(what, got=f"{path} ({manifest['compress']})", hint="train it without --compress")
    if "network" not in manifest:
        what = "a bundle that does not say what its network is made of"
        raise UserError(what, got=path, hint="run its command again in another work folder")
    return path, manifest
