"""Imports plug-ins: modules outside the package that register components when they are imported."""

import importlib
import sys
from pathlib import Path

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import split_names

HELP = "modules to import first, separated by commas, which register additional components"


def load(names: str) -> None:
    """Import the modules of a comma-separated list.

    Raises:
        UserError: If a module cannot be imported.
    """
    for name in parse_names(names):
        try:
            importlib.import_module(name)
        except ImportError as error:
            hint = "install it, or run the command in its folder"
            raise UserError("A plug-in cannot be imported", got=f"{name} ({error})", hint=hint) from None


def compute_digests(names: str) -> dict[str, str]:
    """Return the SHA-256 of the file of each module, by which cached results of an older version are recognized."""
    paths = {name: getattr(sys.modules[name], "__file__", None) for name in parse_names(names)}
    return {name: files.sha256(Path(path)) for name, path in paths.items() if path}


def parse_names(names: str) -> list[str]:
    """Return the modules of a comma-separated list without duplicates.

    Examples:
        >>> parse_names("a, b,,a")
        ['a', 'b']
    """
    return list(dict.fromkeys(split_names(names)))
