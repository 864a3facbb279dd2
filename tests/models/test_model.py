"""Network and its split: the trainable weights of a phase, and trunks and trainable part that equal the network."""

import dataclasses

import keras
import numpy as np
import pytest

from tests.helpers.assets import fetch_asset
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.build import build_model, build_towers, set_stochastic_depth
from tfx_finetune.models.freezing import count_unfrozen_groups
from tfx_finetune.models.split import split_model
from tfx_finetune.run.plan import check
from tfx_finetune.types.components import TASKS, Backbone, LayerGroup, PretrainedCfg
from tfx_finetune.types.task import ClassLabels

LABELS = ClassLabels(("cat", "dog", "owl"), (3, 4, 5), 12)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Build a pretrained tower of 17 layer groups with two heads."""
    fetch_asset("efficientnet-lite0")
    run = Run(data=str(tmp_path_factory.mktemp("photos")), backbone="efficientnet_lite0(size=64)")
    plan = check(dataclasses.replace(run, heads="kind=classify(), seen=tag()"))
    tasks = {head: TASKS.build(spec, LABELS) for head, spec in plan.heads.items()}
    keras.utils.set_random_seed(0)
    network = build_model(plan.architecture, build_towers(plan.architecture), tasks)
    # The initial kernels of heads are zero, with which every split would give equal outputs.
    for layer in network.model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([np.random.default_rng(0).normal(size=weight.shape) for weight in layer.weights])
    return network


def test_inputs_and_outputs_have_names(network):
    """The input has the name of the tower, and each head has an output `<head>/logits`."""
    assert list(network.model.input) == ["image"]
    assert {name: tensor.shape for name, tensor in network.model.output.items()} == {
        "kind/logits": (None, 3),
        "seen/logits": (None, 3),
    }


def test_towers_and_heads_have_user_names(tmp_path):
    """`--backbone=photo=convnet()` names the input, `--heads=fruit=classify()` the output."""
    plan = check(Run(data=str(tmp_path), backbone="photo=convnet(size=8)", heads="fruit=classify()"))
    tasks = {head: TASKS.build(spec, LABELS) for head, spec in plan.heads.items()}
    network = build_model(plan.architecture, build_towers(plan.architecture), tasks)
    assert list(network.model.input) == ["photo"]
    assert list(network.model.output) == ["fruit/logits"]


@pytest.mark.parametrize(
    ("option", "groups", "expected"),
    [
        *(("0", 17, 0), ("1", 17, 1), ("5", 17, 5), ("17", 17, 17), ("99", 17, 17), ("all", 17, 17)),
        *(("0.3", 17, 6), ("0.5", 17, 9), (".01", 17, 1), ("0.0", 17, 0), ("0.99", 2, 2), ("0.5", 2, 1), ("all", 1, 1)),
    ],
)
def test_unfreeze_selects_layer_groups(option, groups, expected):
    """The option is a number, a fraction that is rounded up, or all, and is limited to the number of groups."""
    backbone = Backbone(
        "image", PretrainedCfg(8, origin="a package"), None, None, (LayerGroup("block", (), None),) * groups
    )
    assert count_unfrozen_groups(backbone, option) == expected


def expected_trainable(network, count):
    """Return the weights of the top groups and the heads without the batch normalization of towers."""
    groups = network.backbones["image"].groups
    names = {name for group in groups[len(groups) - count :] for name in group.layers}
    tower = {name for group in groups for name in group.layers}
    return {
        weight.path
        for layer in network.model.layers
        if (layer.name in names and not isinstance(layer, keras.layers.BatchNormalization)) or layer.name not in tower
        for weight in layer.weights
    }


@pytest.mark.parametrize("unfreeze", ["0", "1", "5", "0.3", "0.5", "16"])
def test_split_preserves_outputs(network, unfreeze):
    """trainable_part(trunk(pixels)) equals model(pixels), and the trainable part has all trainable weights."""
    trunks, trainable_part = split_model(network, unfreeze)
    data = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    outputs = network.model({"image": data}, training=False)
    split_outputs = trainable_part({"image": trunks["image"](data, training=False)}, training=False)
    assert set(split_outputs) == set(outputs)
    for name, expected in outputs.items():
        expected = expected.numpy()
        assert np.abs(expected[0] - expected[1]).max() > 0.01
        assert np.abs(split_outputs[name].numpy() - expected).max() <= 1e-4 * np.abs(expected).max()
    expected = expected_trainable(network, count_unfrozen_groups(network.backbones["image"], unfreeze))
    assert {weight.path for weight in network.model.trainable_weights} == expected
    assert {weight.path for weight in trainable_part.trainable_weights} == expected
    assert trunks["image"].trainable_weights == []


def test_a_frozen_tower_is_cut_after_pooling(network):
    """The cached features are 1,280 numbers, not a feature map of 2 x 2 x 1280."""
    assert split_model(network, "0")[0]["image"].output_shape == (None, 1280)
    assert split_model(network, "1")[0]["image"].output_shape == (None, 2, 2, 320)


def test_all_leaves_no_trunk(network):
    """The trainable part is the model; batch normalization of the pretrained tower stays frozen."""
    trunks, trainable_part = split_model(network, "all")
    assert trunks == {}
    assert trainable_part is network.model
    assert {weight.path for weight in trainable_part.trainable_weights} == expected_trainable(network, 17)


def test_splits_are_independent(network):
    """A split does not depend on the split before; layers are shared, so training a part trains the model."""
    split_model(network, "all")
    _, trainable_part = split_model(network, "1")
    assert {weight.path for weight in trainable_part.trainable_weights} == expected_trainable(network, 1)
    before = network.model({"image": np.full((1, 64, 64, 3), 90, np.uint8)})["kind/logits"].numpy()
    head = next(layer for layer in trainable_part.layers if isinstance(layer, keras.layers.Dense))
    values = head.get_weights()
    head.set_weights([values[0], values[1] + 1])
    after = network.model({"image": np.full((1, 64, 64, 3), 90, np.uint8)})["kind/logits"].numpy()
    head.set_weights(values)
    assert np.allclose(after, before + 1, atol=1e-4)


def test_batch_normalization_of_a_pretrained_tower_is_frozen(network):
    """A training step changes neither its statistics nor its scales."""
    data = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.float32)
    trunks, trainable_part = split_model(network, "2")
    layers = [layer for layer in trainable_part.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(layers) > 2
    before = [layer.get_weights() for layer in layers]
    trainable_part({"image": trunks["image"](data)}, training=True)
    for layer, values in zip(layers, before, strict=True):
        assert all(map(np.array_equal, layer.get_weights(), values))


def test_a_randomly_initialized_tower_is_trained_with_its_batch_normalization(tmp_path):
    """All of it is trained for every value of unfreeze."""
    plan = check(Run(data=str(tmp_path), backbone="convnet(size=8, widths=(4, 8))"))
    tasks = {head: TASKS.build(spec, LABELS) for head, spec in plan.heads.items()}
    network = build_model(plan.architecture, build_towers(plan.architecture), tasks)
    trunks, trainable_part = split_model(network, "0")
    assert trunks == {}
    assert len(trainable_part.trainable_weights) == 4 + 2 * 4 + 2
    layer = next(layer for layer in trainable_part.layers if isinstance(layer, keras.layers.BatchNormalization))
    before = layer.moving_mean.numpy()
    trainable_part({"image": np.random.default_rng(0).normal(99, 9, (4, 8, 8, 1)).astype(np.float32)}, training=True)
    assert np.abs(layer.moving_mean.numpy() - before).max() > 0


def test_stochastic_depth_increases_with_height(network):
    """EfficientNet-Lite0 has nine residual blocks: at a rate of 0.9, the last one is skipped in nine of ten samples."""
    drops = [layer for layer in network.model.layers if layer.name.endswith("_drop")]
    assert [layer.rate for layer in drops] == [0.0] * 9
    set_stochastic_depth(network, 0.9)
    assert np.allclose([layer.rate for layer in drops], 0.1 * np.arange(1, 10))
    branch = np.ones((2000, 2, 2, drops[-1].output.shape[-1]), np.float32)
    outputs = drops[-1](branch, training=True).numpy()
    assert np.isin(outputs.round(3), (0.0, 10.0)).all()
    rows = outputs.reshape(2000, -1)
    assert (rows == rows[:, :1]).all(), "a whole branch is dropped"
    assert 0.07 < (rows[:, 0] > 0).mean() < 0.13
    set_stochastic_depth(network, 0.0)
    assert np.array_equal(drops[-1](branch, training=True), branch)


def test_stochastic_depth_needs_residual_blocks(tmp_path):
    """An option without effect is refused."""
    plan = check(Run(data=str(tmp_path), backbone="convnet(size=8)"))
    network = build_model(
        plan.architecture, build_towers(plan.architecture), {"label": TASKS.build(plan.heads["label"], LABELS)}
    )
    set_stochastic_depth(network, 0.0)
    with pytest.raises(
        UserError, match=r"The backbone does not support stochastic_depth: 0\.1\. Expected: efficientnet_lite, "
    ):
        set_stochastic_depth(network, 0.1)


def test_adapters_are_inserted_into_the_groups_of_their_phase(tmp_path):
    """They follow the three top groups, are trained with them, and are the identity before training."""
    fetch_asset("efficientnet-lite0")
    run = Run(data=str(tmp_path), backbone="efficientnet_lite0(size=64)")
    finetune = dataclasses.replace(run.finetune, unfreeze="3", adapter="bottleneck(dim=4)")
    networks, outputs = {}, []
    for name, options in (("plain", run), ("adapted", dataclasses.replace(run, finetune=finetune))):
        plan = check(options)
        networks[name] = build_model(
            plan.architecture, build_towers(plan.architecture), {"label": TASKS.build(plan.heads["label"], LABELS)}
        )
        pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
        backbone = networks[name].backbones["image"]
        pooled = keras.Model(backbone.inputs, backbone.features.pooled)
        outputs.append(pooled(pixels.astype(np.float32)).numpy())
    assert np.array_equal(*outputs)
    plain, adapted = (
        [len(group.layers) for group in networks[name].backbones["image"].groups] for name in ("plain", "adapted")
    )
    assert np.subtract(adapted, plain).tolist() == [*[0] * 14, *[3] * 3]
    _, trainable_part = split_model(networks["adapted"], "3")
    assert sum("adapter" in weight.path for weight in trainable_part.trainable_weights) == 3 * 4
