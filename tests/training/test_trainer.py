"""Tests of one phase on a pretrained tower: its weights have the score of its history, for all options."""

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
from tfx_finetune.training import continual, trainer
from tfx_finetune.training.phase_data import prepare_phase_data
from tfx_finetune.training.trainer import fit_phase
from tfx_finetune.training.weight_averaging import standard_error
from tfx_finetune.types.components import AUGMENTS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Set up a pretrained tower of 64 pixels with a head, images of shapes, and the initial weights."""
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


def test_bottleneck_adapters_are_trained_and_stay_in_the_network(prepared, tmp_path):
    """Only the adapters and the head are trained; the other weights of the tower stay unchanged."""
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


def fit(prepared, folder, **options):
    plan, data, network, initial_weights = prepared
    network.model.set_weights(initial_weights)
    phase = Phase(**({"epochs": 4, "learning_rate": 1e-3, "unfreeze": "2", "augmented_views": 1} | options))
    return fit_phase(network, "finetune", phase, data, training_context(dataclasses.replace(plan, workdir=folder)))


def test_steps_per_execution_has_no_effect_on_the_weights(prepared, tmp_path, monkeypatch):
    """An epoch in executions of several steps gives the weights of an epoch in single steps."""
    _, data, network, _ = prepared
    weights = {}
    for max_steps in (1, data.steps):
        monkeypatch.setattr(trainer, "_MAX_STEPS_PER_EXECUTION", max_steps)
        assert trainer.choose_steps_per_execution(data.steps) == max_steps
        history = fit(prepared, tmp_path / str(max_steps), epochs=2)
        weights[max_steps] = network.model.get_weights()
        assert history.epochs == 2
    for one, other in zip(*weights.values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (7, 7), (8, 8), (11, 1), (12, 6), (250, 5), (256, 8)])
def test_steps_per_execution_divides_the_steps_of_an_epoch(steps, count):
    """With another number, Keras would skip the end of an epoch."""
    assert trainer.choose_steps_per_execution(steps) == count


def test_a_training_step_is_traced_once(monkeypatch):
    """TensorFlow traces a step twice if the step creates variables, as the losses of several heads do.

    If they are created before, the step is traced once, and the loss of the first epoch is that of its batches only.
    """
    traced, losses = [], []
    step = keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda self, data: traced.append(data) or step(self, data))
    inputs = {"x": keras.Input((4,), name="x")}
    layers = {name: keras.layers.Dense(2, kernel_initializer="ones") for name in "ab"}
    samples = ({"x": np.ones((32, 4))}, dict.fromkeys("ab", np.zeros((32, 2))), dict.fromkeys("ab", np.ones(32)))
    batches = tf.data.Dataset.from_tensor_slices(samples).batch(8)
    for build_first in (False, True):
        traced.clear()
        model = keras.Model(inputs, {name: layer(inputs["x"]) for name, layer in layers.items()})
        model.compile(keras.optimizers.SGD(0.0), dict.fromkeys("ab", "mse"), jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        if build_first:
            trainer.build_losses_and_metrics(model, batches)
        losses.append(model.fit(batches, verbose=0).history["loss"])
        assert len(traced) == (1 if build_first else 2)
    assert losses[0] == losses[1] == [32.0]


def compute_accuracy(prepared, split="val"):
    """Return the accuracy of the whole model on images, without cached features."""
    _, data, network, _ = prepared
    is_correct = [
        network.model(x, training=False)["label/logits"].numpy().argmax(-1) == y["label"].argmax(-1)
        for x, y, _ in data.make_batches(split).as_numpy_iterator()
    ]
    return np.concatenate(is_correct).mean()


OPTIONS = {
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
    [pytest.param(OPTIONS[name], marks=() if name in QUICK else pytest.mark.slow, id=name) for name in OPTIONS],
)
def test_the_network_has_the_score_of_the_history(prepared, tmp_path, options):
    """The score is also that of a phase that is already done, and is at least the initial score."""
    _, _, network, initial_weights = prepared
    history = fit(prepared, tmp_path, **options)
    assert history.epochs <= options.get("epochs", 4)
    assert compute_accuracy(prepared) == pytest.approx(history.val_score)
    assert history.val_score >= history.start[0]
    assert [weight.shape for weight in network.model.get_weights()] == [weight.shape for weight in initial_weights]
    weights = network.model.get_weights()
    repeated = fit(prepared, tmp_path, **options)
    assert repeated == history
    assert all(map(np.array_equal, network.model.get_weights(), weights))
    names = sorted(path.name for path in (tmp_path / "checkpoints" / "finetune").iterdir())
    assert names == ["history.json", "weights.npz"]
    if "adapter" in options:
        assert history.trained_parameters < 0.25 * history.parameters


def test_a_phase_never_lowers_the_score(prepared, tmp_path):
    """If the learning rate is far too high, the phase returns the initial weights."""
    network = prepared[2]
    good = fit(prepared, tmp_path / "good", epochs=6)
    initial_weights = network.model.get_weights()
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
    assert all(map(np.array_equal, network.model.get_weights(), initial_weights))


def test_the_best_epoch_is_selected_if_the_last_is_worse_by_more_than_the_margin(prepared, tmp_path):
    """The trained weights are reset before the last epoch."""
    plan, data, network, initial_weights = prepared
    network.model.set_weights(initial_weights)

    def reset_weights(phase, epoch, score):
        if epoch == 2:
            network.model.set_weights(initial_weights)

    phase = Phase(epochs=4, learning_rate=1e-3, unfreeze="2", augmented_views=1, schedule="linear")
    history = fit_phase(
        network, "finetune", phase, data, training_context(dataclasses.replace(plan, workdir=tmp_path)), reset_weights
    )
    scores = history.metrics["val_score"]
    assert scores[-1] < max(scores) - standard_error(max(scores), data.table.size("val"))
    assert history.val_score == max(scores) == pytest.approx(compute_accuracy(prepared))
    assert history.selection == f"epoch {history.best_epoch + 1}"


def test_a_loss_that_is_not_finite_stops_the_run(prepared, tmp_path):
    """The error is one line and says which options to lower."""
    error = complaint(lambda: fit(prepared, tmp_path, learning_rate=1e38, clip_norm=0.0, warmup_ratio=0.5, epochs=6))
    assert "is not a finite number: nan. Lower --finetune.learning_rate or --finetune.clip_norm." in error


def test_without_validation_samples_the_last_epoch_is_selected(prepared, tmp_path):
    """There are no scores to select by."""
    plan, data, network, initial_weights = prepared
    split = np.where(data.table.split == "val", "train", data.table.split)
    without_val = (
        plan,
        dataclasses.replace(data, table=dataclasses.replace(data.table, split=split)),
        network,
        initial_weights,
    )
    history = fit(without_val, tmp_path, epochs=2, soup_epochs=2, wise_ft=True)
    assert history.selection == "epoch 2"


@pytest.mark.parametrize("augment", ["", "flip()"])
def test_preprocessed_images_are_cached_without_augmentation(prepared, tmp_path, augment):
    """Every epoch of the whole model then has the cached images, each sample once with its label."""
    plan, data, _, _ = prepared
    plan = dataclasses.replace(
        plan, workdir=tmp_path, run=dataclasses.replace(plan.run, cache=CacheOptions(enabled=False))
    )
    data = dataclasses.replace(data, augments=tuple(("image", AUGMENTS.build(spec)) for spec in parse_specs(augment)))
    phase_data = prepare_phase_data({}, plan.phases["finetune"], data, training_context(plan))
    assert bool(phase_data.train) == (not augment)
    labels = {x.tobytes(): y["label"].argmax() for x, y in iterate_samples(data.make_batches("train"), "label")}
    for epoch in range(2):
        epoch_labels = {
            x.tobytes(): y["label/logits"].argmax()
            for x, y in iterate_samples(phase_data.training_batches(epoch, epoch + 1), "label/logits")
        }
        assert len(epoch_labels) == data.table.size("train")
        assert (epoch_labels == labels) == (not augment)


@pytest.mark.slow
def test_mixed_precision_changes_weights_like_float32(prepared, tmp_path):
    """The float32 weights change in the same direction, up to rounding of bfloat16 (2^-9) through 17 blocks."""
    plan, data, _, initial_weights = prepared
    # A step of SGD is proportional to its gradient, so that rounding errors stay small.
    phase = Phase(epochs=2, learning_rate=1e-2, unfreeze="2", augmented_views=1, optimizer="sgd", weight_decay=0.0)
    changes = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            network = build_model(plan.architecture, build_towers(plan.architecture), data.tasks)
            network.model.set_weights(initial_weights)
            fit_phase(
                network, "finetune", phase, data, training_context(dataclasses.replace(plan, workdir=tmp_path / policy))
            )
        finally:
            keras.config.set_dtype_policy("float32")
        assert {weight.dtype for weight in network.model.weights} == {"float32"}
        assert network.model.get_layer("head").compute_dtype == policy.removeprefix("mixed_")
        differences = [a - b for a, b in zip(network.model.get_weights(), initial_weights, strict=True)]
        changes.append(np.concatenate([difference.ravel() for difference in differences]))
    lengths = [np.linalg.norm(change) for change in changes]
    assert lengths[0] > 1e-2
    assert lengths[1] == pytest.approx(lengths[0], rel=0.2)
    assert 0.9 < np.dot(*changes) / np.prod(lengths) < 0.99999, "the same direction, but not the same numbers"


def iterate_samples(batches, head):
    return [
        (x, {head: y})
        for inputs, targets, _ in batches.as_numpy_iterator()
        for x, y in zip(inputs["image"], targets[head], strict=True)
    ]


def test_an_interrupted_phase_resumes_to_the_same_weights(prepared, tmp_path):
    """Optimizer variables, the order of the data and the schedule equal those of a phase without interruption."""
    plan, data, network, initial_weights = prepared
    phase = Phase(epochs=4, learning_rate=1e-3, unfreeze="2", augmented_views=1)
    fit(prepared, tmp_path / "reference")
    expected = network.model.get_weights()

    def interrupt(phase, epoch, score):
        if epoch == 1:
            raise KeyboardInterrupt

    network.model.set_weights(initial_weights)
    plan = dataclasses.replace(plan, workdir=tmp_path / "interrupted")
    with pytest.raises(KeyboardInterrupt):
        fit_phase(network, "finetune", phase, data, training_context(plan), interrupt)
    network.model.set_weights(initial_weights)
    fit_phase(network, "finetune", phase, data, training_context(plan))
    assert all(map(np.array_equal, network.model.get_weights(), expected))


def test_an_exception_of_the_epoch_callback_stops_a_phase(prepared, tmp_path):
    """Pruned trials stop this way; the adapter is merged nevertheless."""
    plan, data, network, initial_weights = prepared
    calls = []

    def stop_after_two(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise StopIteration

    network.model.set_weights(initial_weights)
    phase = Phase(epochs=4, learning_rate=1e-3, unfreeze="2", augmented_views=1, adapter="lora()")
    with pytest.raises(StopIteration):
        context = training_context(dataclasses.replace(plan, workdir=tmp_path))
        fit_phase(network, "finetune", phase, data, context, stop_after_two)
    assert [(name, epoch) for name, epoch, _ in calls] == [("finetune", 0), ("finetune", 1)]
    assert [weight.shape for weight in network.model.get_weights()] == [weight.shape for weight in initial_weights]


def test_a_float32_network_is_not_rebuilt(prepared):
    """Compression folds the rebuilt network; another rebuild would lose the folding."""
    plan, data, network, _ = prepared
    assert to_float32(network) is network
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = build_model(plan.architecture, build_towers(plan.architecture), data.tasks)
        full = to_float32(half)
        assert full is not half
        assert to_float32(full) is full
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.array_equal(a, b) for a, b in zip(half.model.get_weights(), full.model.get_weights(), strict=True))
    assert list_layer_names(full) == list_layer_names(half)


def test_training_needs_no_nondeterministic_operation(tmp_path):
    """With `deterministic`, TensorFlow rejects such operations and random numbers without a seed."""
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
        (history,), _ = continual.fit(network, data, context, plan.run, plan.heads_by)
        with pytest.raises(tf.errors.InvalidArgumentError, match="When determinism is enabled"):
            tf.raw_ops.RandomUniform(shape=[1], dtype=tf.float32)
    finally:
        determinism.enable(False)
    assert history.epochs == 1
