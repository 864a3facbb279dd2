"""Fine-tune pretrained models on your own data and get a verified bundle that runs where you need it.

    import tfx_finetune as tfx
    bundle = tfx.train(tfx.Run(data="photos/"))
    bundle.predict(["a.jpg"])

Importing this package does not import TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfx_finetune.bundle.bundle import Bundle
    from tfx_finetune.core.config import Phase, Run
    from tfx_finetune.core.errors import GateError, UserError
    from tfx_finetune.train import train

__version__ = "0.1.0"

__all__ = ["Bundle", "GateError", "Phase", "Run", "UserError", "train"]

_MODULES = {
    "Bundle": "tfx_finetune.bundle.bundle",
    "GateError": "tfx_finetune.core.errors",
    "Phase": "tfx_finetune.core.config",
    "Run": "tfx_finetune.core.config",
    "UserError": "tfx_finetune.core.errors",
    "train": "tfx_finetune.train",
}

if not TYPE_CHECKING:  # A type checker reports unknown names only without this function.

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        # Importing tfx_finetune.train binds the module to this name; users mean the function.
        globals()[name] = value
        return value
