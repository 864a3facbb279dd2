"""Components from outside of this package: modules that register them when they are imported."""

import importlib
import sys
from pathlib import Path

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError

HELP = "modules to import first, separated by commas; they register components of their own"


def load(names: str) -> None:
    """Imports the modules of a comma-separated list.

    Raises:
        UserError: There is no such module.
    """
    for name in parse_names(names):
        try:
            importlib.import_module(name)
        except ImportError as error:
            todo = "is it installed, or in this folder?"
            raise UserError("cannot import a plug-in", got=f"{name} ({error})", hint=todo) from None


def compute_digests(names: str) -> dict[str, str]:
    """SHA-256 of the file of each module: what its earlier text gave is not taken for what it gives now."""
    found = {name: getattr(sys.modules[name], "__file__", None) for name in parse_names(names)}
    return {name: files.sha256(Path(file)) for name, file in found.items() if file}


def parse_names(names: str) -> list[str]:
    """The modules of a comma-separated list, each once."""
    return list(dict.fromkeys(name for part in names.split(",") if (name := part.strip())))
