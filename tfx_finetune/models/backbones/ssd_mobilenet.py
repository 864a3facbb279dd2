"""MobileNetV2 (Sandler et al., arXiv 1801.04381) out of a detector, SSD (arXiv 1512.02325) trained on Open Images."""

import keras
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tfx_finetune.core import assets
from tfx_finetune.models.backbones import pretrained
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input, resolve_input_side
from tfx_finetune.ops import litert
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

_NAME, _ASSET, _WEIGHTS = "ssd_mobilenet_v2", "ssd-mobilenet-v2", "openimages"
_MEAN = _STD = (127.5,) * 3
# In the package's file the labels stand before the detector, which is a TFLite file.
_TFLITE_OFFSET = 184
_CONVOLUTIONS = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)


@BACKBONES.register
def ssd_mobilenet_v2(weights: str = _WEIGHTS, size: int = 0) -> Backbone:
    """MobileNetV2 of a detector of 23 kinds of things of Open Images, as a package of npm brings it.

    Its normalizations came folded into the convolutions: here they add an offset and do nothing else.

    Args:
        weights: `openimages`, `none`, or the path of a file of weights of keras.applications.MobileNetV2.
        size: Side of the input in pixels, 32 or more; 0 is 320. It was trained on 300, whose half is not even.
    """
    card = PretrainedCfg(size=resolve_input_side(_NAME, size, 320), mean=_MEAN, std=_STD)
    card = pretrained.set_weights_origin(card, weights, _ASSET, _WEIGHTS, "detector of Open Images v4")
    inputs, x = make_normalized_input(card)
    model = keras.applications.MobileNetV2(include_top=False, weights=None, input_tensor=x)
    if weights == _WEIGHTS:
        _assign_weights(model, read_detector())
    elif weights != "none":
        pretrained.load_keras_weights(model, _NAME, pretrained.find_weights_file(weights, _WEIGHTS))
    return build_backbone(card, inputs, model.output)


def read_detector() -> bytes:
    """The whole detector, a TFLite file: (1, 300, 300, 3) of -1 to 1 -> boxes and logits of 1,917 anchors."""
    return assets.fetch_file(_ASSET).read_bytes()[_TFLITE_OFFSET:]


def _assign_weights(model: keras.Model, content: bytes) -> None:
    """Gives convolutions and the normalizations behind them the kernels and biases of the file's, in order."""
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    layers = [layer for layer in model.layers if isinstance(layer, kinds)]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    # Behind the backbone's come those of the smaller levels that only this detector has.
    for layer, norm, (kernel, bias) in zip(layers, norms, read_convolutions(content), strict=False):
        layer.set_weights([kernel.transpose(1, 2, 3, 0)])
        ones = np.ones_like(bias)
        norm.set_weights([ones, bias, 0 * ones, ones - norm.epsilon])


def read_convolutions(content: bytes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernels, (channels, height, width, inputs), and biases of the feature extractor of a TFLite file, in order."""
    file, graph, calls = litert.parse_operators(content)
    # They are kept in float16, and an operation makes each float32 before its use.
    kept = {call.Outputs(0): call.Inputs(0) for call, kind in calls if kind == schema.BuiltinOperator.DEQUANTIZE}

    def values(index: int) -> np.ndarray:
        return np.array(litert.read_constant(file, graph, kept[index]), np.float32)

    return [
        (values(call.Inputs(1)), values(call.Inputs(2)))
        for call, kind in calls
        if kind in _CONVOLUTIONS and graph.Tensors(call.Inputs(1)).Name().startswith(b"FeatureExtractor")
    ]
