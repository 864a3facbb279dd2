"""Reads and checks the manifest.json of a bundle without opening its model files."""

import json
from pathlib import Path
from typing import Any

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError

VERSION = 2
"""Version of the manifest format; bundles of other versions are refused."""


def require_bundle_path(path: str | Path) -> Path:
    """Return the path of `--bundle` with `~` expanded.

    Raises:
        UserError: If the path is empty.
    """
    if not path:
        raise UserError("--bundle is missing", hint="write --bundle=FOLDER, the folder bundle/ of a finished run")
    return Path(path).expanduser()


def read_manifest(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Read the manifest of a bundle and check that all files exist and have their checksums.

    Returns:
        The folder of the bundle, and the manifest.

    Raises:
        UserError: If the folder is not a bundle, or a file is missing or changed.
    """
    path = require_bundle_path(path)
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        version = manifest["version"]
    except (OSError, ValueError, KeyError, TypeError):
        hint = "name the folder bundle/ of a finished run"
        raise UserError("The folder has no readable manifest.json and is not a bundle", got=path, hint=hint) from None
    if version != VERSION:
        hint = "use the version of tfx_finetune that wrote it"
        raise UserError("The bundle has another version", got=version, expected=VERSION, hint=hint)
    if "verified" not in manifest:
        raise UserError("The run of the bundle has not finished", got=path, hint="run its command again")
    for name, digest in manifest["sha256"].items():
        if not (path / name).is_file():
            raise UserError("A file of the bundle is missing", got=path / name, hint="run its command again")
        if files.sha256(path / name) != digest:
            hint = "run its command again: the file is not the verified one"
            raise UserError("A file of the bundle was changed", got=path / name, hint=hint)
    return path, manifest


def read_network_manifest(path: str | Path, purpose: str) -> tuple[Path, dict[str, Any]]:
    """Read the manifest of a bundle from whose `model.keras` layers are taken by name; see `read_manifest`.

    Args:
        path: Folder of the bundle.
        purpose: Option that needs the layers, such as `--init`, for error messages.

    Raises:
        UserError: If the folder is not a bundle, or the bundle has no Keras file, no layer names, or is compressed.
    """
    path, manifest = read_manifest(path)
    if "keras" not in manifest["files"]:
        hint = f'run: python -m tfx_finetune.export --bundle={path} --exports="keras_file()"'
        message = f"{purpose} needs a bundle with a Keras file, which holds the weights"
        raise UserError(message, got=f"{path} has {', '.join(manifest['files'])}", hint=hint)
    if manifest.get("compress"):
        message = f"{purpose} cannot use a compressed model, whose batch normalization is folded"
        raise UserError(message, got=f"{path} ({manifest['compress']})", hint="train it without --compress")
    if "layer_names" not in manifest:
        hint = "run its command again in another work folder"
        raise UserError("The manifest of the bundle has no layer names", got=path, hint=hint)
    return path, manifest
