"""The whole model and its cuts: what a phase trains, what it leaves as it is, and that the parts are the whole."""

import dataclasses

import keras
import numpy as np
import pytest

from tests.helpers.assets import asset
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
    """A pretrained tower of 17 groups with two heads."""
    asset("efficientnet-lite0")
    run = Run(data=str(tmp_path_factory.mktemp("photos")), backbone="efficientnet_lite0(size=64)")
    plan = check(dataclasses.replace(run, heads="kind=classify(), seen=tag()"))
    tasks = {head: TASKS.build(spec, LABELS) for head, spec in plan.heads.items()}
    keras.utils.set_random_seed(0)
    network = build_model(plan.architecture, build_towers(plan.architecture), tasks)
    # Heads begin at zero, where every cut would agree.
    for layer in network.model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([np.random.default_rng(0).normal(size=weight.shape) for weight in layer.weights])
    return network


def test_one_output_a_head(network):
    """Named by head and output, on one input named by the tower."""
    assert list(network.model.input) == ["image"]
    assert {name: tensor.shape for name, tensor in network.model.output.items()} == {
        "kind/logits": (None, 3),
        "seen/logits": (None, 3),
    }


def test_towers_and_heads_have_the_names_they_were_given(tmp_path):
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
def test_what_unfreeze_means(option, groups, expected):
    """A number of groups, a share of them rounded up, or all; never more than there are."""
    backbone = Backbone(
        "image", PretrainedCfg(8, origin="a package"), None, None, (LayerGroup("block", (), None),) * groups
    )
    assert count_unfrozen_groups(backbone, option) == expected


def trained_by_hand(network, count):
    """Weights of the top groups and the heads, the towers' normalization left out."""
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
def test_the_parts_are_the_whole(network, unfreeze):
    """top(trunk(pixels)) is model(pixels) for every head, and the top holds all that is trained."""
    trunks, top = split_model(network, unfreeze)
    data = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    whole = network.model({"image": data}, training=False)
    parts = top({"image": trunks["image"](data, training=False)}, training=False)
    assert set(parts) == set(whole)
    for name, expected in whole.items():
        expected = expected.numpy()
        assert np.abs(expected[0] - expected[1]).max() > 0.01
        assert np.abs(parts[name].numpy() - expected).max() <= 1e-4 * np.abs(expected).max()
    expected = trained_by_hand(network, count_unfrozen_groups(network.backbones["image"], unfreeze))
    assert {weight.path for weight in network.model.trainable_weights} == expected
    assert {weight.path for weight in top.trainable_weights} == expected
    assert trunks["image"].trainable_weights == []


def test_a_frozen_tower_is_cut_behind_its_pooling(network):
    """1280 numbers a sample are kept, not a feature map of 2 x 2 x 1280."""
    assert split_model(network, "0")[0]["image"].output_shape == (None, 1280)
    assert split_model(network, "1")[0]["image"].output_shape == (None, 2, 2, 320)


def test_all_leaves_no_trunk(network):
    """Then the top is the whole model, normalization of the tower still frozen."""
    trunks, top = split_model(network, "all")
    assert trunks == {}
    assert top is network.model
    assert {weight.path for weight in top.trainable_weights} == trained_by_hand(network, 17)


def test_cuts_do_not_remember(network):
    """A phase's cut does not depend on the one before; layers are shared, so training the top trains the model."""
    split_model(network, "all")
    _, top = split_model(network, "1")
    assert {weight.path for weight in top.trainable_weights} == trained_by_hand(network, 1)
    before = network.model({"image": np.full((1, 64, 64, 3), 90, np.uint8)})["kind/logits"].numpy()
    head = next(layer for layer in top.layers if isinstance(layer, keras.layers.Dense))
    values = head.get_weights()
    head.set_weights([values[0], values[1] + 1])
    after = network.model({"image": np.full((1, 64, 64, 3), 90, np.uint8)})["kind/logits"].numpy()
    head.set_weights(values)
    assert np.allclose(after, before + 1, atol=1e-4)


def test_normalization_of_a_pretrained_tower_learns_nothing(network):
    """A training step in the top leaves its statistics and scales as they are; a random tower's are trained."""
    data = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.float32)
    trunks, top = split_model(network, "2")
    layers = [layer for layer in top.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(layers) > 2
    before = [layer.get_weights() for layer in layers]
    top({"image": trunks["image"](data)}, training=True)
    for layer, values in zip(layers, before, strict=True):
        assert all(map(np.array_equal, layer.get_weights(), values))


def test_a_tower_without_pretrained_weights_is_trained_with_its_normalization(tmp_path):
    """Its statistics come from nowhere else, so all of it is trained whatever a phase would unfreeze."""
    plan = check(Run(data=str(tmp_path), backbone="convnet(size=8, widths=(4, 8))"))
    tasks = {head: TASKS.build(spec, LABELS) for head, spec in plan.heads.items()}
    network = build_model(plan.architecture, build_towers(plan.architecture), tasks)
    trunks, top = split_model(network, "0")
    assert trunks == {}
    assert len(top.trainable_weights) == 4 + 2 * 4 + 2
    layer = next(layer for layer in top.layers if isinstance(layer, keras.layers.BatchNormalization))
    before = layer.moving_mean.numpy()
    top({"image": np.random.default_rng(0).normal(99, 9, (4, 8, 8, 1)).astype(np.float32)}, training=True)
    assert np.abs(layer.moving_mean.numpy() - before).max() > 0


def test_blocks_are_left_out_the_more_the_higher_they_stand(network):
    """Nine residual blocks of EfficientNet-Lite0: at a chance of 0.9 the last one goes in nine of ten samples."""
    drops = [layer for layer in network.model.layers if layer.name.endswith("_drop")]
    assert [layer.rate for layer in drops] == [0.0] * 9
    set_stochastic_depth(network, 0.9)
    assert np.allclose([layer.rate for layer in drops], 0.1 * np.arange(1, 10))
    branch = np.ones((2000, 2, 2, drops[-1].output.shape[-1]), np.float32)
    kept = drops[-1](branch, training=True).numpy()
    assert np.isin(kept.round(3), (0.0, 10.0)).all()
    whole = kept.reshape(2000, -1)
    assert (whole == whole[:, :1]).all(), "a branch is left out as a whole"
    assert 0.07 < (whole[:, 0] > 0).mean() < 0.13
    set_stochastic_depth(network, 0.0)
    assert np.array_equal(drops[-1](branch, training=True), branch)


def test_a_tower_of_no_such_blocks_is_refused(tmp_path):
    """Better than an option that does nothing."""
    plan = check(Run(data=str(tmp_path), backbone="convnet(size=8)"))
    network = build_model(
        plan.architecture, build_towers(plan.architecture), {"label": TASKS.build(plan.heads["label"], LABELS)}
    )
    set_stochastic_depth(network, 0.0)
    with pytest.raises(UserError, match=r"no blocks that can be left out; received: stochastic_depth=0\.1"):
        set_stochastic_depth(network, 0.1)


def test_an_adapter_of_the_graph_stands_in_the_groups_of_its_phase(tmp_path):
    """Behind the three top groups, trained with them, and nothing changes before it is."""
    asset("efficientnet-lite0")
    run = Run(data=str(tmp_path), backbone="efficientnet_lite0(size=64)")
    tune = dataclasses.replace(run.finetune, unfreeze="3", adapter="bottleneck(dim=4)")
    found, outputs = {}, []
    for name, tried in (("plain", run), ("adapted", dataclasses.replace(run, tune=tune))):
        plan = check(tried)
        found[name] = build_model(
            plan.architecture, build_towers(plan.architecture), {"label": TASKS.build(plan.heads["label"], LABELS)}
        )
        pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
        pooled = keras.Model(found[name].backbones["image"].inputs, found[name].backbones["image"].features.pooled)
        outputs.append(pooled(pixels.astype(np.float32)).numpy())
    assert np.array_equal(*outputs)
    added = [len(group.layers) for group in found["adapted"].backbones["image"].groups]
    assert np.subtract(added, [len(group.layers) for group in found["plain"].backbones["image"].groups]).tolist() == [
        *[0] * 14,
        *[3] * 3,
    ]
    _, top = split_model(found["adapted"], "3")
    assert sum("adapter" in weight.path for weight in top.trainable_weights) == 3 * 4
