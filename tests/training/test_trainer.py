"""One phase on a pretrained tower: what it leaves is what it says, however it was trained."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.util import _pywrap_determinism as determinism

from tests.helpers.assets import fetch_asset
from tests.helpers.commands import write_shapes
from tests.helpers.small_data import complaint
from tfx_finetune.core.config import CacheOptions, Phase, Run, SplitOptions
from tfx_finetune.core.spec import parse_specs
from tfx_finetune.models.build import build_model, build_towers, to_float32
from tfx_finetune.models.layer_names import list_layer_names
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import set_up, training_context
from tfx_finetune.training import trainer
from tfx_finetune.training.continual import fit
from tfx_finetune.training.phase_data import prepare_phase_data
from tfx_finetune.training.trainer import fit_phase
from tfx_finetune.training.weight_averaging import standard_error
from tfx_finetune.types.components import AUGMENTS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A pretrained tower of 64 pixels with a head, drawn shapes, and the weights before any training."""
    fetch_asset("efficientnet-lite0")
    root = tmp_path_factory.mktemp("phases")
    run = Run(
        data=str(write_shapes(root / "shapes", images_per_class=16)),
        backbone="efficientnet_lite0(size=64)",
        workdir=str(root / "run"),
        batch_size=8,
        split=SplitOptions(val=0.2),
    )
    plan = check(run)
    backbones = build_towers(plan.architecture)
    data = prepare_data(plan, {"image": backbones["image"].pretrained_cfg})
    keras.utils.set_random_seed(0)
    network = build_model(plan.architecture, backbones, data.tasks)
    return plan, data, network, network.model.get_weights()


def test_a_bottleneck_is_trained_and_stays(prepared, tmp_path):
    """With the head it is all that is trained; the normalization and kernels of the tower are as they were."""
    plan, data, _, _ = prepared
    phase = dataclasses.replace(plan.phases["finetune"], epochs=3, unfreeze="3", adapter="bottleneck(dim=8)")
    plan = dataclasses.replace(plan, phases={"finetune": phase}, workdir=tmp_path)
    keras.utils.set_random_seed(0)
    network = build_model(plan.architecture, build_towers(plan.architecture), data.tasks)
    before = {weight.path: weight.numpy() for weight in network.model.weights}
    history = fit_phase(network, "finetune", phase, data, training_context(plan))
    changed = {weight.path for weight in network.model.weights if not np.array_equal(before[weight.path], weight)}
    assert changed == {path for path in before if "adapter" in path or path.startswith("dense")}
    assert history.trained_parameters == sum(before[path].size for path in changed)
    assert history.val_score > history.start[0]


def fitted(prepared, folder, **options):
    plan, data, network, start = prepared
    network.model.set_weights(start)
    phase = Phase(**({"epochs": 4, "learning_rate": 1e-3, "unfreeze": "2", "augmented_views": 1} | options))
    return fit_phase(network, "finetune", phase, data, training_context(dataclasses.replace(plan, workdir=folder)))


def test_steps_at_once_are_the_same_steps(prepared, tmp_path, monkeypatch):
    """An epoch run in parts of several steps ends with the weights of one that is run step by step."""
    _, data, network, _ = prepared
    found = {}
    for most in (1, data.steps):
        monkeypatch.setattr(trainer, "_MAX_STEPS_PER_EXECUTION", most)
        assert trainer.choose_steps_per_execution(data.steps) == most
        history = fitted(prepared, tmp_path / str(most), epochs=2)
        found[most] = network.model.get_weights()
        assert history.epochs == 2
    for one, other in zip(*found.values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (7, 7), (8, 8), (11, 1), (12, 6), (250, 5), (256, 8)])
def test_steps_at_once_divide_an_epoch(steps, count):
    """Keras would run over the end of an epoch, and miss what is done there."""
    assert trainer.choose_steps_per_execution(steps) == count


def test_a_step_is_traced_once(monkeypatch):
    """TensorFlow traces a function again that makes variables, as the losses of several heads do: made before, it is
    traced once, and the first epoch's losses are of its batches alone.
    """
    traced, losses = [], []
    step = keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda self, data: traced.append(data) or step(self, data))
    inputs = {"x": keras.Input((4,), name="x")}
    start = {name: keras.layers.Dense(2, kernel_initializer="ones") for name in "ab"}
    samples = ({"x": np.ones((32, 4))}, dict.fromkeys("ab", np.zeros((32, 2))), dict.fromkeys("ab", np.ones(32)))
    batches = tf.data.Dataset.from_tensor_slices(samples).batch(8)
    for ready in (False, True):
        traced.clear()
        model = keras.Model(inputs, {name: layer(inputs["x"]) for name, layer in start.items()})
        model.compile(keras.optimizers.SGD(0.0), dict.fromkeys("ab", "mse"), jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        if ready:
            trainer.build_losses_and_metrics(model, batches)
        losses.append(model.fit(batches, verbose=0).history["loss"])
        assert len(traced) == (1 if ready else 2)
    assert losses[0] == losses[1] == [32.0]


def accuracy(prepared, split="val"):
    """Of the whole model on pixels, whatever the phase says."""
    _, data, network, _ = prepared
    right = [
        network.model(x, training=False)["label/logits"].numpy().argmax(-1) == y["label"].argmax(-1)
        for x, y, _ in data.make_batches(split).as_numpy_iterator()
    ]
    return np.concatenate(right).mean()


RECIPES = {
    "plain": {},
    "moving average": {"ema_momentum": 0.7},
    "soup": {"soup_epochs": 3},
    "interpolation": {"wise_ft": True},
    "all of them": {
        "ema_momentum": 0.5,
        "soup_epochs": 2,
        "wise_ft": True,
        "gradient_accumulation_steps": 2,
        "layer_decay": 0.8,
        "l2_sp": True,
    },
    "lora": {"adapter": "lora(rank=2)"},
    "lora soup": {"adapter": "lora(rank=2)", "soup_epochs": 2, "ema_momentum": 0.5},
    "bitfit": {"adapter": "bitfit()", "learning_rate": 1e-2},
    "norms": {"adapter": "norms()", "learning_rate": 1e-2},
    "stochastic depth": {"stochastic_depth": 0.5, "unfreeze": "5"},
    "whole": {"unfreeze": "all", "epochs": 2},
    "adapted whole": {"unfreeze": "all", "epochs": 2, "adapter": "lora()"},
}


QUICK = ("plain", "all of them", "lora")


@pytest.mark.parametrize(
    "options",
    [pytest.param(RECIPES[name], marks=() if name in QUICK else pytest.mark.slow, id=name) for name in RECIPES],
)
def test_what_a_phase_leaves_is_what_it_says(prepared, tmp_path, options):
    """The network has the score that the history states, again when the phase is found done; it has learned."""
    _, _, network, start = prepared
    history = fitted(prepared, tmp_path, **options)
    assert history.epochs <= options.get("epochs", 4)
    assert accuracy(prepared) == pytest.approx(history.val_score)
    assert history.val_score >= history.start[0]
    assert [weight.shape for weight in network.model.get_weights()] == [weight.shape for weight in start]
    left = network.model.get_weights()
    again = fitted(prepared, tmp_path, **options)
    assert again == history
    assert all(map(np.array_equal, network.model.get_weights(), left))
    names = sorted(path.name for path in (tmp_path / "checkpoints" / "finetune").iterdir())
    assert names == ["history.json", "weights.npz"]
    if "adapter" in options:
        assert history.trained_parameters < 0.25 * history.parameters


def test_a_phase_never_ends_worse_than_it_began(prepared, tmp_path):
    """A rate that ruins the tower after a good start leaves the start."""
    network = prepared[2]
    good = fitted(prepared, tmp_path / "good", epochs=6)
    kept = network.model.get_weights()
    bad = fit_phase(
        network,
        "finetune",
        Phase(epochs=2, learning_rate=3.0, unfreeze="2", augmented_views=1, warmup_ratio=0.0, clip_norm=0.0),
        prepared[1],
        training_context(dataclasses.replace(prepared[0], workdir=tmp_path / "bad")),
    )
    assert good.trained_parameters > 100_000
    assert good.val_score > 0.6
    assert bad.start[0] == good.val_score
    assert max(zip(bad.metrics["val_score"], np.negative(bad.metrics["val_loss"]), strict=True)) < bad.start
    assert bad.selection == "initial weights (no epoch improved the validation score)"
    assert all(map(np.array_equal, network.model.get_weights(), kept))


def test_an_epoch_that_is_clearly_better_is_kept_not_the_last(prepared, tmp_path):
    """What was learned is lost before the last epoch."""
    plan, data, network, start = prepared
    network.model.set_weights(start)

    def lose(phase, epoch, score):
        if epoch == 2:
            network.model.set_weights(start)

    phase = Phase(epochs=4, learning_rate=1e-3, unfreeze="2", augmented_views=1, schedule="linear")
    history = fit_phase(
        network, "finetune", phase, data, training_context(dataclasses.replace(plan, workdir=tmp_path)), lose
    )
    scores = history.metrics["val_score"]
    assert scores[-1] < max(scores) - standard_error(max(scores), data.table.size("val"))
    assert history.val_score == max(scores) == pytest.approx(accuracy(prepared))
    assert history.selection == f"epoch {history.best_epoch + 1}"


def test_a_loss_that_is_no_number_stops_the_run(prepared, tmp_path):
    """One line says what to lower, and the state of the last good epoch stays."""
    said = complaint(lambda: fitted(prepared, tmp_path, learning_rate=1e38, clip_norm=0.0, warmup_ratio=0.5, epochs=6))
    assert "is not a finite number: nan. Lower --finetune.learning_rate or --finetune.clip_norm." in said


def test_without_validation_samples_the_last_epoch_is_kept(prepared, tmp_path):
    """There is nothing to choose by."""
    plan, data, network, start = prepared
    split = np.where(data.table.split == "val", "train", data.table.split)
    bare = (plan, dataclasses.replace(data, table=dataclasses.replace(data.table, split=split)), network, start)
    history = fitted(bare, tmp_path, epochs=2, soup_epochs=2, wise_ft=True)
    assert history.selection == "epoch 2"


@pytest.mark.parametrize("augment", ["", "flip()"])
def test_prepared_pictures_are_kept_where_nothing_changes_them(prepared, tmp_path, augment):
    """Then every epoch of the whole model sees the kept ones; each sample comes once, with its own label."""
    plan, data, _, _ = prepared
    plan = dataclasses.replace(
        plan, workdir=tmp_path, run=dataclasses.replace(plan.run, cache=CacheOptions(enabled=False))
    )
    data = dataclasses.replace(data, augments=tuple(("image", AUGMENTS.build(spec)) for spec in parse_specs(augment)))
    fed = prepare_phase_data({}, plan.phases["finetune"], data, training_context(plan))
    assert bool(fed.train) == (not augment)
    labels = {x.tobytes(): y["label"].argmax() for x, y in rows(data.make_batches("train"), "label")}
    for epoch in range(2):
        seen = {
            x.tobytes(): y["label/logits"].argmax()
            for x, y in rows(fed.training_batches(epoch, epoch + 1), "label/logits")
        }
        assert len(seen) == data.table.size("train")
        assert (seen == labels) == (not augment)


@pytest.mark.slow
def test_mixed_precision_trains_as_float32_does(prepared, tmp_path):
    """From the same start the weights, kept in float32, go the same way, but for the rounding of bfloat16 (2^-9), which
    opens and closes ReLUs in 17 blocks.
    """
    plan, data, _, start = prepared
    # A step of SGD is as long as its gradient, so rounding stays rounding.
    phase = Phase(epochs=2, learning_rate=1e-2, unfreeze="2", augmented_views=1, optimizer="sgd", weight_decay=0.0)
    ways = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            network = build_model(plan.architecture, build_towers(plan.architecture), data.tasks)
            network.model.set_weights(start)
            fit_phase(
                network, "finetune", phase, data, training_context(dataclasses.replace(plan, workdir=tmp_path / policy))
            )
        finally:
            keras.config.set_dtype_policy("float32")
        assert {weight.dtype for weight in network.model.weights} == {"float32"}
        assert network.model.get_layer("head").compute_dtype == policy.removeprefix("mixed_")
        moved = [a - b for a, b in zip(network.model.get_weights(), start, strict=True)]
        ways.append(np.concatenate([change.ravel() for change in moved]))
    lengths = [np.linalg.norm(way) for way in ways]
    assert lengths[0] > 1e-2
    assert lengths[1] == pytest.approx(lengths[0], rel=0.2)
    assert 0.9 < np.dot(*ways) / np.prod(lengths) < 0.99999, "the same direction, but not the same numbers"


def rows(batches, head):
    return [
        (x, {head: y})
        for inputs, targets, _ in batches.as_numpy_iterator()
        for x, y in zip(inputs["image"], targets[head], strict=True)
    ]


def test_a_phase_that_broke_off_goes_on_to_the_same_weights(prepared, tmp_path):
    """The optimizer's state, the order of the data and the schedule are those of a phase that nothing disturbed."""
    plan, data, network, start = prepared
    phase = Phase(epochs=4, learning_rate=1e-3, unfreeze="2", augmented_views=1)
    fitted(prepared, tmp_path / "whole")
    whole = network.model.get_weights()

    def break_off(phase, epoch, score):
        if epoch == 1:
            raise KeyboardInterrupt

    network.model.set_weights(start)
    plan = dataclasses.replace(plan, workdir=tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        fit_phase(network, "finetune", phase, data, training_context(plan), break_off)
    network.model.set_weights(start)
    fit_phase(network, "finetune", phase, data, training_context(plan))
    assert all(map(np.array_equal, network.model.get_weights(), whole))


def test_watching_may_end_a_phase(prepared, tmp_path):
    """As pruning a trial does; an adapter is taken off all the same."""
    plan, data, network, start = prepared
    seen = []

    def watch(*found):
        seen.append(found)
        if len(seen) == 2:
            raise StopIteration

    network.model.set_weights(start)
    phase = Phase(epochs=4, learning_rate=1e-3, unfreeze="2", augmented_views=1, adapter="lora()")
    with pytest.raises(StopIteration):
        fit_phase(
            network, "finetune", phase, data, training_context(dataclasses.replace(plan, workdir=tmp_path)), watch
        )
    assert [(name, epoch) for name, epoch, _ in seen] == [("finetune", 0), ("finetune", 1)]
    assert [weight.shape for weight in network.model.get_weights()] == [weight.shape for weight in start]


def test_a_network_is_made_float32_once(prepared):
    """Compression folds what was rebuilt; built again behind it, the network would not be the folded one."""
    plan, data, network, _ = prepared
    assert to_float32(network) is network
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = build_model(plan.architecture, build_towers(plan.architecture), data.tasks)
        whole = to_float32(half)
        assert whole is not half
        assert to_float32(whole) is whole
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.array_equal(a, b) for a, b in zip(half.model.get_weights(), whole.model.get_weights(), strict=True))
    assert list_layer_names(whole) == list_layer_names(half)


def test_a_deterministic_run_is_a_run(tmp_path):
    """TensorFlow then refuses operations that have no deterministic form, and draws without a seed: none is needed."""
    run = Run(
        data=str(write_shapes(tmp_path / "shapes", images_per_class=4)),
        backbone="convnet(size=8, channels=3, widths=(4,))",
        workdir=str(tmp_path / "run"),
        deterministic=True,
        finetune=Phase(epochs=1, unfreeze="all"),
        frozen=Phase(epochs=0),
    )
    plan = check(run)
    try:
        data, network, context = set_up(plan)
        assert determinism.is_enabled()
        (history,), _ = fit(network, data, context, plan.run, plan.heads_by)
        with pytest.raises(tf.errors.InvalidArgumentError, match="When determinism is enabled"):
            tf.raw_ops.RandomUniform(shape=[1], dtype=tf.float32)
    finally:
        determinism.enable(False)
    assert history.epochs == 1
