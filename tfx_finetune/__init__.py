"""Fine-tune pretrained models on your own data and get a verified bundle that runs where you need it.

    import tfx_finetune as tfx
    bundle = tfx.train(tfx.Run(data="photos/"))
    bundle.predict(["a.jpg"])

Importing this package loads no TensorFlow.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Run": "tfx_finetune.core.config",
    "Phase": "tfx_finetune.core.config",
    "UserError": "tfx_finetune.core.errors",
    "GateError": "tfx_finetune.core.errors",
    "train": "tfx_finetune.train",
    "Bundle": "tfx_finetune.bundle.bundle",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    # Importing tfx_finetune.train binds the module to this name; the function is what users mean.
    globals()[name] = value
    return value
