"""Packages that only some uses need, and the extra that installs them."""

import importlib
from types import ModuleType

from tfx_finetune.core.errors import UserError


def package(name: str, extra: str) -> ModuleType:
    """An optional package.

    Args:
        name: Of its module.
        extra: Of this package, which installs it.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # soundfile may find no libsndfile
        todo = f"pip install 'tfx_finetune[{extra}]'"
        raise UserError("a package that this needs is not installed", received=name, todo=todo) from None
