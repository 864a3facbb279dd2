"""What every backbone promises, whatever it is; being registered is enough to be tested."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from tfx_finetune.contracts import BACKBONES
from tfx_finetune.core.errors import UserError
from tfx_finetune.model import Network, cut

# Built and run within about a second; every other one is slow.
FAST = {
    "convnet",
    "efficientnet_lite0",
    "keras_file",
    "mobilenet_v3_small",
    "torchvision_mobilenet_v2",
    "vgg16",
}
# Run too: of each family one. The others have more of the same blocks, are built and cut without numbers in them.
RUN = FAST | {
    *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_b0", "inception_resnet_v2", "inception_v3"),
    *("mobilenet", "mobilenet_v2", "nasnet_mobile", "resnet50", "resnet50_v2", "xception"),
}
INITIALIZERS = (keras.initializers.VarianceScaling, keras.initializers.TruncatedNormal)
# These do not pad, so that small inputs leave nothing and large ones lose a few pixels.
UNPADDED = {"inception_v3", "inception_resnet_v2", "xception"}


def options(name, folder):
    if name == "convnet":
        return {"size": 32}
    if name == "keras_file":
        inputs = keras.Input((64, 64, 3))
        x = keras.layers.Rescaling(1 / 255)(inputs)
        for width in (8, 16, 24, 32, 40):
            x = keras.layers.Conv2D(width, 3, 2, padding="same", activation="relu")(x)
        keras.Model(inputs, x).save(folder / "own.keras")
        return {"path": str(folder / "own.keras")}
    return {"weights": "none", "size": 139 if name in UNPADDED else 64}


def settle(model, pixels):
    """Gives normalization layers the statistics of their input: with those of a fresh model, outputs fade."""
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.momentum = 0.0
    model(pixels, training=True)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in BACKBONES],
)
def named(request, tmp_path_factory):
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        # Random numbers for the weights of the largest take longer than all that is tested.
        for kind in () if request.param in RUN else INITIALIZERS:
            patch.setattr(kind, "__call__", lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype))
        backbone = BACKBONES[request.param](**options(request.param, tmp_path_factory.mktemp("own")))
    model = keras.Model({"image": backbone.inputs}, {"head/logits": keras.layers.Dense(3)(backbone.features.pooled)})
    # Cut as if it was pretrained: a tower that was initialized at random is trained as a whole.
    pretrained = dataclasses.replace(backbone, card=dataclasses.replace(backbone.card, origin="this test"))
    return request.param, backbone, Network(model, "image", pretrained, {})


def pixels(backbone, count=2):
    return patches(*backbone.inputs.shape[2:], count)


def patches(size, channels, count):
    # Not noise: to a deep network one picture of noise is like another.
    small = np.random.default_rng(0).integers(0, 256, (count, 4, 4, channels)).astype(np.uint8)
    return small.repeat(math.ceil(size / 4), axis=1).repeat(math.ceil(size / 4), axis=2)[:, :size, :size]


def test_input_and_card(named):
    """Pixels of the card's size and channels come in, (batch, dim) comes out, and the card says what feeds it."""
    name, backbone, _ = named
    card = backbone.card
    assert backbone.modality == "image"
    assert backbone.inputs.shape == (None, card.size, card.size, card.channels)
    assert len(backbone.features.pooled.shape) == 2
    assert backbone.features.pooled.shape[1] > 0
    assert all(len(values) >= card.channels for values in (card.mean, card.std))
    assert min(card.std) > 0
    assert bool(card.origin) == (name == "keras_file")
    assert bool(card.sha256) == (name == "keras_file")


def test_every_layer_is_in_one_group(named):
    """What no group holds could never be trained, what two hold would be frozen and trained at once."""
    _, backbone, _ = named
    graph = keras.Model(backbone.inputs, backbone.groups[-1].output)
    grouped = [layer for group in backbone.groups for layer in group.layers]
    layers = [layer.name for layer in graph.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert sorted(grouped) == sorted(layers)
    assert all(group.layers for group in backbone.groups)


def test_graph_is_flat(named):
    """TF-MOT wraps single layers and cannot look into a model inside the model."""
    _, _, network = named
    assert not [layer.name for layer in network.model.layers if isinstance(layer, keras.Model)]


def test_one_tensor_leaves_each_group(named):
    """Without a group's output nothing of the input reaches the features."""
    _, backbone, network = named
    operations = {id(tensor): op for op in network.model.operations for tensor in op._inbound_nodes[0].outputs}
    for group in backbone.groups:
        found, todo = set(), [network.model.outputs[0]]
        while todo:
            tensor = todo.pop()
            if id(tensor) not in found and tensor is not group.output:
                found.add(id(tensor))
                todo += operations[id(tensor)]._inbound_nodes[0].input_tensors
        assert id(backbone.inputs) not in found, group.name


def test_groups_stand_in_order(named):
    """A group takes from itself, from the output of the one below, and from nothing else."""
    _, backbone, network = named
    place = {layer: position for position, group in enumerate(backbone.groups) for layer in group.layers}
    for layer in network.model.layers:
        for tensor in layer._inbound_nodes[0].input_tensors if layer.name in place else ():
            below = place.get(tensor._keras_history.operation.name, place[layer.name])
            assert below == place[layer.name] or tensor is backbone.groups[place[layer.name] - 1].output, layer.name


def test_a_cut_changes_nothing(named):
    """top(trunk(pixels)) is model(pixels), wherever a phase cuts; bytes and floats are the same pixels."""
    name, backbone, network = named
    cuts = {unfreeze: cut(network, unfreeze) for unfreeze in ("0", "1", "0.3", str(len(backbone.groups) // 2))}
    if name not in RUN:
        return
    data = pixels(backbone)
    settle(network.model, {"image": pixels(backbone, 8).astype(np.float32)})
    whole = network.model({"image": data}, training=False)["head/logits"].numpy()
    assert np.isfinite(whole).all()
    assert np.abs(whole[0] - whole[1]).max() > 1e-3 * np.abs(whole).max(), "the input does not matter"
    for unfreeze, (trunk, top) in cuts.items():
        joint = trunk(data.astype(np.float32), training=False) if trunk else {"image": data}
        parts = top(joint, training=False)["head/logits"].numpy()
        assert np.abs(parts - whole).max() <= 1e-4 * np.abs(whole).max(), unfreeze


def test_pyramid(named):
    """Level n has the size of the input over 2^n; only networks that do not pad may miss a few pixels."""
    name, backbone, _ = named
    levels = backbone.features.pyramid
    assert list(levels) == (["P2"] if name == "convnet" else ["P2", "P3", "P4", "P5"])
    outputs = keras.Model(backbone.inputs, list(levels.values())).outputs
    for level, output in zip(levels, outputs, strict=True):
        _, height, width, channels = output.shape
        size = math.ceil(backbone.card.size / 2 ** int(level[1]))
        assert height == width
        assert channels > 0
        assert size - (3 if name in UNPADDED else 0) <= height <= size, level


@pytest.mark.parametrize("name", [name for name in BACKBONES if "weights" in BACKBONES.signature(name).parameters])
@pytest.mark.parametrize("size", [-1, 31])
def test_too_small_an_input(name, size):
    """Before anything is built, the least size is named."""
    with pytest.raises(UserError, match=rf"the input of {name} is too small; received: {size}; allowed: at least \d+"):
        BACKBONES[name](weights="none", size=size)
