"""What every backbone promises, whatever it is; being registered is enough to be tested."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from tests.helpers.hub_presets import hub_preset, whisper_preset
from tests.helpers.small_bundle import tower_bundle
from tests.helpers.towers import batch
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import find_cut_tensors_by_tower, split_model
from tfx_finetune.types.components import BACKBONES, MODALITIES, Fusion, FusionOutput

# Built and run within about a second; every other one is slow.
FAST = {
    "audio_net",
    "bag_of_embeddings",
    "bundle",
    "convnet",
    "efficientnet_lite0",
    "keras_file",
    "mobilenet_v3_small",
    "spectrogram",
    "speech_embedding",
    "ssd_mobilenet_v2",
    "torchvision_mobilenet_v2",
    "use_multilingual",
    "vgg16",
}
PICTURES = [name for name in BACKBONES if BACKBONES.get_modality(name) == "image"]
# Run too: of each family one. The others have more of the same blocks, are built and cut without numbers in them.
RUN = FAST | {
    *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_b0", "inception_resnet_v2", "inception_v3"),
    *("mobilenet", "mobilenet_v2", "nasnet_mobile", "resnet50", "resnet50_v2", "xception"),
    *("keras_hub_text", "minilm", "whisper", "audio_bundle", "text_bundle"),
}
INITIALIZERS = (keras.initializers.VarianceScaling, keras.initializers.TruncatedNormal)
# These do not pad, so that small inputs leave nothing and large ones lose a few pixels.
UNPADDED = {"inception_v3", "inception_resnet_v2", "xception"}
# These come from a file that the test writes.
OWN = {"keras_file", "keras_hub_text", "whisper", "bundle", "audio_bundle", "text_bundle"}
BUNDLED = {
    "bundle": "efficientnet_lite0(weights='none', size=64)",
    "audio_bundle": "audio_net()",
    "text_bundle": "minilm(weights='none', size=20)",
}


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
    if name in BUNDLED:
        return {"path": str(tower_bundle(folder / "bundle", BUNDLED[name]).path)}
    if name == "bag_of_embeddings":
        return {"size": 20}
    if name == "whisper":
        return {"preset": whisper_preset(folder), "seconds": 2.0}
    if name == "keras_hub_text":
        return {"preset": hub_preset(folder, "Bert"), "size": 20}
    if name == "spectrogram":
        return {"tower": Spec("convnet", (), {"size": 32})}
    if name == "audio_net":
        return {}
    if name == "speech_embedding":
        return {"weights": "none"}
    if name in PICTURES:
        return {"weights": "none", "size": 139 if name in UNPADDED else 64}
    return {"weights": "none", "size": 20}


def settle(model, inputs):
    """Gives normalization layers the statistics of their input: with those of a fresh model, outputs fade."""
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.momentum = 0.0
    model(inputs, training=True)


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
    model = keras.Model(
        {backbone.modality: backbone.inputs}, {"head/logits": keras.layers.Dense(3)(backbone.features.pooled)}
    )
    # Cut as if it was pretrained: a tower that was initialized at random is trained as a whole.
    pretrained = dataclasses.replace(
        backbone, pretrained_cfg=dataclasses.replace(backbone.pretrained_cfg, origin="this test")
    )
    return request.param, backbone, Network(model, {backbone.modality: pretrained}, {})


def test_input_and_card(named):
    """What the modality prepares comes in, (batch, dim) comes out, and the card says what feeds it."""
    name, backbone, _ = named
    card = backbone.pretrained_cfg
    assert backbone.modality == BACKBONES.get_modality(name)
    modality = MODALITIES.build(Spec(backbone.modality), card)
    assert backbone.inputs.shape == (None, *modality.shape)
    assert backbone.inputs.dtype == modality.fed
    assert len(backbone.features.pooled.shape) == 2
    assert backbone.features.pooled.shape[1] > 0
    assert all(len(values) >= card.channels for values in (card.mean, card.std))
    assert min(card.std) > 0
    assert (card.rate > 0) == (backbone.modality == "audio")
    assert bool(card.origin) == (name in OWN)
    assert bool(card.sha256) == (name in OWN)


def test_tokens(named):
    """For text and audio, a vector for each moment."""
    _, backbone, _ = named
    if backbone.features.tokens is not None:
        _, time, width = backbone.features.tokens.shape
        assert time > 0
        assert width > 0


def test_every_layer_is_in_one_group(named):
    """What no group holds is never trained, what two hold would be frozen and trained at once."""
    _, backbone, _ = named
    graph = keras.Model(backbone.inputs, backbone.groups[-1].output)
    grouped = [layer for group in backbone.groups for layer in group.layers]
    layers = [layer.name for layer in graph.layers if not isinstance(layer, keras.layers.InputLayer)]
    front = set(layers) - set(grouped)
    assert sorted(grouped) == sorted(set(layers) - front)
    # Only a front end, which is mathematics, has weights in no group.
    fixed = {layer.name.removeprefix("own_") for layer in graph.layers if layer.name in front and layer.weights}
    assert fixed == ({"fourier", "mel"} if backbone.modality == "audio" else set())
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


def test_a_front_end_is_never_trained(named):
    """Not even where everything is."""
    _, _, network = named
    split_model(network, "all")
    learned = {layer.name.removeprefix("own_") for layer in network.model.layers if layer.trainable_weights}
    assert learned
    assert not learned & {"fourier", "mel"}


def test_a_cut_changes_nothing(named):
    """top(trunk(inputs)) is model(inputs), wherever a phase cuts; bytes and floats are the same pixels."""
    name, backbone, network = named
    cuts = {unfreeze: split_model(network, unfreeze) for unfreeze in ("0", "1", "0.3", str(len(backbone.groups) // 2))}
    if name not in RUN:
        return
    data = batch(backbone)
    settle(network.model, {backbone.modality: batch(backbone, 8).astype(backbone.inputs.dtype)})
    tower = backbone.modality
    whole = network.model({tower: data}, training=False)["head/logits"].numpy()
    assert np.isfinite(whole).all()
    assert np.abs(whole[0] - whole[1]).max() > 1e-3 * np.abs(whole).max(), "the input does not matter"
    for unfreeze, (trunks, top) in cuts.items():
        joint = {tower: trunks[tower](data.astype(backbone.inputs.dtype), training=False) if trunks else data}
        parts = top(joint, training=False)["head/logits"].numpy()
        assert np.abs(parts - whole).max() <= 1e-4 * np.abs(whole).max(), unfreeze


def test_tokens_come_above_a_cut(named):
    """Where a fusion takes tokens, all that a tower gives is made of what its frozen part gives."""
    _, backbone, network = named
    tower, features = backbone.modality, backbone.features
    fused = dataclasses.replace(network, fusion=Fusion(lambda towers, presence: FusionOutput(()), needs_tokens=True))
    for unfreeze in ("0", "1"):
        (joint,) = find_cut_tensors_by_tower(fused, unfreeze).get(tower, (backbone.inputs,))
        given = [features.pooled, features.tokens, features.mask]
        # An input that is an output as well is none for Keras.
        assert keras.Model(joint, [x for x in given if x is not None and x is not joint]).outputs


def test_absent_tokens_do_not_matter(named):
    """Room behind a text changes nothing, and a text of no token at all gives numbers, too."""
    _, backbone, _ = named
    if backbone.modality != "text":
        pytest.skip("pictures have no empty places")
    features = backbone.features
    one = keras.Model(
        backbone.inputs, [features.pooled, features.tokens, features.mask][: 2 + (features.mask is not None)]
    )
    data = batch(backbone, 4)
    pooled, tokens, *masks = (output.numpy() for output in one(data))
    assert tokens.shape[:2] == data.shape
    for mask in masks:
        assert (mask == (data != 0)).all()
        assert not tokens[data == 0].any()
    empty, *_ = one(np.zeros_like(data))
    assert np.isfinite(empty.numpy()).all()
    assert np.abs(pooled[0] - pooled[1]).max() > 0


def test_pyramid(named):
    """Level n has the size of the input over 2^n; only networks that do not pad may miss a few pixels."""
    name, backbone, _ = named
    levels = backbone.features.pyramid
    if backbone.modality != "image":
        assert not levels
        return
    assert list(levels) == (["P2"] if name == "convnet" else ["P2", "P3", "P4", "P5"])
    outputs = keras.Model(backbone.inputs, list(levels.values())).outputs
    for level, output in zip(levels, outputs, strict=True):
        _, height, width, channels = output.shape
        size = math.ceil(backbone.pretrained_cfg.size / 2 ** int(level[1]))
        assert height == width
        assert channels > 0
        assert size - (3 if name in UNPADDED else 0) <= height <= size, level


@pytest.mark.parametrize(
    "name", [name for name in PICTURES if {"weights", "size"} <= set(BACKBONES.get_signature(name).parameters)]
)
@pytest.mark.parametrize("size", [-1, 31])
def test_too_small_an_input(name, size):
    """Before anything is built, the least size is named."""
    with pytest.raises(UserError, match=rf"the input of {name} is too small; received: {size}; allowed: at least \d+"):
        BACKBONES[name](weights="none", size=size)
