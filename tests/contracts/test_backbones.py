"""Contract of backbones: every registered backbone is tested."""

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

# Built and run within about a second; all others are marked slow.
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
# One backbone per family is also run. The others have more blocks of the same kind and are only built and split.
RUN = FAST | {
    *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_b0", "inception_resnet_v2", "inception_v3"),
    *("mobilenet", "mobilenet_v2", "nasnet_mobile", "resnet50", "resnet50_v2", "xception"),
    *("keras_hub_text", "minilm", "whisper", "audio_bundle", "text_bundle"),
}
INITIALIZERS = (keras.initializers.VarianceScaling, keras.initializers.TruncatedNormal)
# Networks without padding need larger inputs, and lose a few pixels.
UNPADDED = {"inception_v3", "inception_resnet_v2", "xception"}
# These load a file that the test writes.
FROM_FILE = {"keras_file", "keras_hub_text", "whisper", "bundle", "audio_bundle", "text_bundle"}
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
    """Set the statistics of batch normalization to those of the input: with the initial ones, outputs vanish."""
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
        # Random initialization of the largest networks would take longer than the tests.
        for kind in () if request.param in RUN else INITIALIZERS:
            patch.setattr(kind, "__call__", lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype))
        backbone = BACKBONES[request.param](**options(request.param, tmp_path_factory.mktemp("own")))
    model = keras.Model(
        {backbone.modality: backbone.inputs}, {"head/logits": keras.layers.Dense(3)(backbone.features.pooled)}
    )
    # An origin makes the tower count as pretrained: a randomly initialized tower is trained as a whole.
    pretrained = dataclasses.replace(
        backbone, pretrained_cfg=dataclasses.replace(backbone.pretrained_cfg, origin="this test")
    )
    return request.param, backbone, Network(model, {backbone.modality: pretrained}, {})


def test_input_and_pretrained_cfg(named):
    """The input is that of the modality, the pooled features are (batch, dim), and the configuration is complete."""
    name, backbone, _ = named
    cfg = backbone.pretrained_cfg
    assert backbone.modality == BACKBONES.get_modality(name)
    modality = MODALITIES.build(Spec(backbone.modality), cfg)
    assert backbone.inputs.shape == (None, *modality.shape)
    assert backbone.inputs.dtype == modality.input_dtype
    assert len(backbone.features.pooled.shape) == 2
    assert backbone.features.pooled.shape[1] > 0
    assert all(len(values) >= cfg.channels for values in (cfg.mean, cfg.std))
    assert min(cfg.std) > 0
    assert (cfg.sample_rate > 0) == (backbone.modality == "audio")
    assert bool(cfg.origin) == (name in FROM_FILE)
    assert bool(cfg.sha256) == (name in FROM_FILE)


def test_tokens(named):
    """Tokens have features for every time step."""
    _, backbone, _ = named
    if backbone.features.tokens is not None:
        _, time, width = backbone.features.tokens.shape
        assert time > 0
        assert width > 0


def test_every_layer_is_in_one_group(named):
    """A layer in no group is never trained, and a layer in two groups would be frozen and trained at once."""
    _, backbone, _ = named
    graph = keras.Model(backbone.inputs, backbone.groups[-1].output)
    grouped = [layer for group in backbone.groups for layer in group.layers]
    layers = [layer.name for layer in graph.layers if not isinstance(layer, keras.layers.InputLayer)]
    front = set(layers) - set(grouped)
    assert sorted(grouped) == sorted(set(layers) - front)
    # Only the fixed front end of audio backbones has weights in no group.
    fixed = {layer.name.removeprefix("own_") for layer in graph.layers if layer.name in front and layer.weights}
    assert fixed == ({"fourier", "mel"} if backbone.modality == "audio" else set())
    assert all(group.layers for group in backbone.groups)


def test_graph_is_flat(named):
    """TF-MOT wraps single layers and does not support nested models."""
    _, _, network = named
    assert not [layer.name for layer in network.model.layers if isinstance(layer, keras.Model)]


def test_one_tensor_leaves_each_group(named):
    """Without a group's output nothing of the input reaches the features."""
    _, backbone, network = named
    operations = {id(tensor): op for op in network.model.operations for tensor in op._inbound_nodes[0].outputs}
    for group in backbone.groups:
        visited, stack = set(), [network.model.outputs[0]]
        while stack:
            tensor = stack.pop()
            if id(tensor) not in visited and tensor is not group.output:
                visited.add(id(tensor))
                stack += operations[id(tensor)]._inbound_nodes[0].input_tensors
        assert id(backbone.inputs) not in visited, group.name


def test_groups_are_in_order(named):
    """The inputs of a group's layers are in the group or are the output of the group below."""
    _, backbone, network = named
    group_index = {layer: position for position, group in enumerate(backbone.groups) for layer in group.layers}
    for layer in network.model.layers:
        for tensor in layer._inbound_nodes[0].input_tensors if layer.name in group_index else ():
            index = group_index[layer.name]
            input_index = group_index.get(tensor._keras_history.operation.name, index)
            assert input_index == index or tensor is backbone.groups[index - 1].output, layer.name


def test_a_front_end_is_never_trained(named):
    """It stays frozen if all layer groups are trained."""
    _, _, network = named
    split_model(network, "all")
    trainable = {layer.name.removeprefix("own_") for layer in network.model.layers if layer.trainable_weights}
    assert trainable
    assert not trainable & {"fourier", "mel"}


def test_split_preserves_outputs(named):
    """trainable_part(trunk(inputs)) equals model(inputs) for every split, with uint8 and float pixels."""
    name, backbone, network = named
    splits = {
        unfreeze: split_model(network, unfreeze) for unfreeze in ("0", "1", "0.3", str(len(backbone.groups) // 2))
    }
    if name not in RUN:
        return
    data = batch(backbone)
    settle(network.model, {backbone.modality: batch(backbone, 8).astype(backbone.inputs.dtype)})
    tower = backbone.modality
    expected = network.model({tower: data}, training=False)["head/logits"].numpy()
    assert np.isfinite(expected).all()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max(), "the input has no effect"
    for unfreeze, (trunks, trainable_part) in splits.items():
        inputs = {tower: trunks[tower](data.astype(backbone.inputs.dtype), training=False) if trunks else data}
        outputs = trainable_part(inputs, training=False)["head/logits"].numpy()
        assert np.abs(outputs - expected).max() <= 1e-4 * np.abs(expected).max(), unfreeze


def test_tokens_can_be_computed_above_a_cut(named):
    """If a fusion reads tokens, all features of a tower can be computed from its cut tensor."""
    _, backbone, network = named
    tower, features = backbone.modality, backbone.features
    fusion = Fusion(lambda towers, modality_mask: FusionOutput(()), needs_tokens=True)
    fused = dataclasses.replace(network, architecture=dataclasses.replace(network.architecture, fusion=fusion))
    for unfreeze in ("0", "1"):
        (cut_tensor,) = find_cut_tensors_by_tower(fused, unfreeze).get(tower, (backbone.inputs,))
        tensors = [features.pooled, features.tokens, features.mask]
        # Keras does not accept a tensor as input and output.
        assert keras.Model(cut_tensor, [x for x in tensors if x is not None and x is not cut_tensor]).outputs


def test_padding_has_no_effect(named):
    """Features at padding are zero, and a text without tokens has finite features."""
    _, backbone, _ = named
    if backbone.modality != "text":
        pytest.skip("only texts have padding")
    features = backbone.features
    model = keras.Model(
        backbone.inputs, [features.pooled, features.tokens, features.mask][: 2 + (features.mask is not None)]
    )
    data = batch(backbone, 4)
    pooled, tokens, *masks = (output.numpy() for output in model(data))
    assert tokens.shape[:2] == data.shape
    for mask in masks:
        assert (mask == (data != 0)).all()
        assert not tokens[data == 0].any()
    empty, *_ = model(np.zeros_like(data))
    assert np.isfinite(empty.numpy()).all()
    assert np.abs(pooled[0] - pooled[1]).max() > 0


def test_pyramid(named):
    """Level n has the size of the input divided by 2^n, and a few pixels less in networks without padding."""
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
def test_too_small_inputs_are_refused(name, size):
    """The error names the minimum size and is raised before anything is built."""
    with pytest.raises(
        UserError, match=rf"The input size of {name}\(\) is too small: {size}\. Expected: at least \d+ pixels\."
    ):
        BACKBONES[name](weights="none", size=size)
