"""Layer groups, pyramids and flattening, on well-known networks and on small graphs with difficult structure."""

import keras
import numpy as np
import pytest

from tfx_finetune.models.backbones.flatten import flatten
from tfx_finetune.models.backbones.graph import (
    find_feature_pyramid,
    insert_layers,
    make_normalized_input,
    split_layer_groups,
)
from tfx_finetune.types.components import BACKBONES, PretrainedCfg


def conv(width=4, strides=1, **options):
    return keras.layers.Conv2D(width, 3, strides, padding="same", **options)


def dense_block(x):
    """Apply three convolutions with a skip connection around the last two."""
    x = conv()(x)
    return keras.layers.Add()([x, conv()(conv()(x))])


def group_names(name, **options):
    return [group.name for group in BACKBONES[name](**options).groups]


def test_groups_end_at_blocks():
    """Blocks are those of the papers: 16 in ResNet50 (3, 4, 6, 3), 16 in EfficientNet-B0 before its head."""
    resnet = group_names("resnet50", weights="none", size=64)
    blocks = [
        f"conv{stage}_block{n}_out" for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3)) for n in range(1, count + 1)
    ]
    assert resnet == blocks
    lite = BACKBONES["efficientnet_lite0"](weights="none", size=64).groups
    assert [group.name.split("_")[0] for group in lite] == [*(f"block{n}" for n in range(1, 17)), "head"]
    assert [group.name.split("_")[1] for group in lite[:-1]] == [
        *("project", "project", "add", "project", "add", "project", "add", "add"),
        *("project", "add", "add", "project", "add", "add", "add", "project"),
    ]
    assert group_names("vgg16", weights="none", size=64) == ["block2_pool", "block3_pool", "block4_pool", "block5_pool"]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        # He et al., arXiv 1512.03385, table 1; Sandler et al., arXiv 1801.04381, table 2; Tan and Le, arXiv 1905.11946,
        # table 1; Simonyan and Zisserman, arXiv 1409.1556, table 1.
        ("resnet50", [256, 512, 1024, 2048]),
        ("mobilenet_v2", [24, 32, 96, 1280]),
        ("torchvision_mobilenet_v2", [24, 32, 96, 1280]),
        ("efficientnet_b0", [24, 40, 112, 1280]),
        ("vgg16", [256, 512, 512, 512]),
    ],
)
def test_pyramid_levels_are_block_outputs(name, channels):
    """Levels are not the widened or padded tensors inside a block."""
    levels = BACKBONES[name](weights="none", size=96).features.pyramid
    assert [(level, tensor.shape[1], tensor.shape[3]) for level, tensor in levels.items()] == [
        (f"P{n}", 96 // 2**n, width) for n, width in zip(range(2, 6), channels, strict=True)
    ]


def test_pyramid_of_upsampled_and_odd_sizes():
    """Upsampled maps of a decoder are not levels of their stride; sides are rounded up."""
    inputs = keras.Input((50, 50, 3))
    x = conv(8, 2)(conv(8, 2)(inputs))
    deep = conv(16, 2)(conv(16, 2)(x))
    up = keras.layers.UpSampling2D(4)(deep)
    levels = find_feature_pyramid(keras.Model(inputs, conv(5)(up)))
    assert {level: tensor.shape[1:] for level, tensor in levels.items()} == {
        "P2": (13, 13, 8),
        "P3": (7, 7, 16),
        "P4": (4, 4, 16),
    }


def check_groups(model):
    """Check that each group's output determines the model's output, and return the number of layers per group."""
    data = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    groups = split_layer_groups(model)
    for group in groups[:-1]:
        trunk, rest = keras.Model(model.input, group.output), keras.Model(group.output, model.output)
        assert np.allclose(rest(trunk(data)), model(data), atol=1e-5)
    assert sorted(layer for group in groups for layer in group.layers) == sorted(
        layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)
    )
    return [len(group.layers) for group in groups]


def test_a_skip_connection_from_the_input_is_not_cut():
    """Two branches from the input have no common tensor before they are joined."""
    inputs = keras.Input((8, 8, 3))
    left = conv()(conv()(conv()(conv()(inputs))))
    joined = keras.layers.Concatenate()([left, conv()(inputs)])
    x = conv(8)(conv(8)(conv(8)(joined)))
    assert check_groups(keras.Model(inputs, x)) == [6, 3]


def test_a_layer_used_twice_is_in_one_group():
    """There is no cut between its uses: a layer cannot be frozen and trained at once."""
    inputs = keras.Input((8, 8, 4))
    shared = conv()
    x = shared(conv()(conv()(inputs)))
    x = conv()(conv()(x))
    x = conv()(conv()(conv()(shared(x))))
    assert check_groups(keras.Model(inputs, x)) == [5, 3]


def test_several_outputs_and_dense_layers():
    """A layer with two outputs cannot be cut; a group has three kernels and ends before more channels."""
    inputs = keras.Input((8, 8, 4))
    parts = keras.ops.split(conv()(conv()(conv()(inputs))), 2, axis=-1)
    x = keras.layers.Add()([conv()(parts[0]), conv()(parts[1])])
    x = keras.layers.Flatten()(dense_block(x))
    x = keras.layers.Dense(7)(keras.layers.Dense(9)(keras.layers.Dense(300)(x)))
    assert check_groups(keras.Model(inputs, x)) == [3, 4, 7]


def nested():
    """Build the model of the Keras transfer-learning guide: preprocessing, a nested model, and a head."""
    keras.utils.set_random_seed(0)
    normalization = keras.layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, (10, 8, 8, 3)))
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), conv(name="a"), keras.layers.BatchNormalization(name="b")], name="inner"
    )
    start = keras.Input((8, 8, 3))
    base = keras.Model(start, inner(keras.layers.ReLU()(conv(name="a")(start))), name="base")
    inputs = keras.Input((8, 8, 3))
    x = base(normalization(inputs), training=False)
    x = keras.layers.Add()([inner(x), keras.ops.tanh(x)])
    return keras.Model(inputs, conv(name="a")(x))


def test_flatten_preserves_outputs():
    """Weights, adapted statistics, shared models and equal names are preserved; no nested model remains."""
    model = nested()
    data = np.random.default_rng(1).normal(3, 2, (4, 8, 8, 3)).astype(np.float32)
    for layer in (layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)):
        layer.set_weights([np.random.default_rng(2).uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    inputs = keras.Input((8, 8, 3))
    outputs = flatten(model, inputs, prefix="own_")
    flat = keras.Model(inputs, outputs["a"])
    assert np.allclose(flat(data), model(data), atol=1e-5)
    assert np.abs(model(data)).max() > 0.1
    assert not [layer for layer in flat.layers if isinstance(layer, keras.Model)]
    names = [layer.name for layer in flat.layers[1:]]
    assert len(names) == 7
    assert all(name.startswith("own_") for name in names)
    # `inner` is called twice and copied once.
    assert len([layer for layer in flat.layers if isinstance(layer, keras.layers.BatchNormalization)]) == 1
    assert np.allclose(
        keras.Model(inputs, outputs["base"])(data), model.get_layer("base")(model.layers[1](data)), atol=1e-5
    )
    assert sum(np.prod(weight.shape) for weight in flat.weights) == sum(
        np.prod(weight.shape) for weight in model.weights
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_one_group_per_channel_becomes_depthwise(padding):
    """Outputs are equal; a convolution with fewer groups is unchanged."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 9, 4))
    options = {"padding": padding, "activation": "relu", "bias_initializer": "normal"}
    x = keras.layers.Conv2D(8, 3, 2, groups=4, kernel_regularizer="l2", name="multiplied", **options)(inputs)
    x = keras.layers.Conv2D(8, 3, groups=8, use_bias=False, dilation_rate=2, padding="same", name="plain")(x)
    model = keras.Model(inputs, keras.layers.Conv2D(6, 1, groups=2, name="paired")(x))
    source = keras.Input((9, 9, 4))
    flat = keras.Model(source, flatten(model, source)["paired"])
    class_names = [type(layer).__name__ for layer in flat.layers[1:]]
    assert class_names == ["DepthwiseConv2D", "DepthwiseConv2D", "Conv2D"]
    data = np.random.default_rng(0).normal(size=(3, 9, 9, 4)).astype(np.float32)
    assert np.ptp(model(data)) > 0.1
    np.testing.assert_allclose(flat(data), model(data), atol=1e-5)


def test_input_is_normalized():
    """The result is (pixel - mean) / std per channel, or the input itself for mean 0 and std 1."""
    data = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    cfg = PretrainedCfg(size=5, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    inputs, x = make_normalized_input(cfg)
    assert np.allclose(keras.Model(inputs, x)(data), (data - np.array([10, 20, 30])) / [2, 4, 5], atol=1e-4)
    inputs, x = make_normalized_input(PretrainedCfg(size=5))
    assert x is inputs
    inputs, x = make_normalized_input(PretrainedCfg(size=5, mean=(127.5,), std=(127.5,), channels=1))
    assert np.allclose(keras.Model(inputs, x)(data[..., :1]), data[..., :1] / 127.5 - 1, atol=1e-6)


def test_layers_are_inserted_behind_groups():
    """Inserted layers belong to the group before them, and change only outputs from this group on."""
    backbone = BACKBONES["efficientnet_lite0"](weights="none", size=64)
    names = [group.name for group in backbone.groups]
    index = names.index("block14_add")
    scale = keras.layers.Rescaling(1.0, name="scale")
    changed = insert_layers(
        backbone, {"block14_add": lambda x: keras.layers.Activation("linear", name="end")(scale(x))}
    )
    assert [group.name for group in changed.groups] == names
    assert changed.groups[index].layers == (*backbone.groups[index].layers, "scale", "end")
    assert changed.groups[index + 1].layers == backbone.groups[index + 1].layers
    x = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)

    def outputs(backbone):
        levels = backbone.features.pyramid.values()
        model = keras.Model(backbone.inputs, [*(group.output for group in backbone.groups), *levels])
        return [output.numpy() for output in model(x)]

    before = outputs(backbone)
    assert all(np.array_equal(a, b) for a, b in zip(before, outputs(changed), strict=True))
    scale.scale = 2.0
    after = outputs(changed)
    same = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True] * index + [False] * (len(names) - index) + [True, True, True, False]
    assert np.array_equal(after[index], 2 * before[index])
    assert all(np.array_equal(a, b) for a, b in zip(before, outputs(backbone), strict=True))
