"""Models of several towers: initial fusions, options per tower, modality dropout and gradient modulation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.small_data import complaint, picture
from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.models.freezing import parse_lr_multipliers, parse_per_tower, parse_unfreeze
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import set_up, training_context
from tfx_finetune.training.contrastive import CLIPLoss
from tfx_finetune.training.gradient_modulation import compute_modulation_coefficients
from tfx_finetune.training.optimizer import make_optimizer
from tfx_finetune.training.phase_data import prepare_phase_data
from tfx_finetune.training.trainer import compile_for_phase, make_modulation_callbacks
from tfx_finetune.types.components import FUSIONS, MODALITY_MASK, Features

TOWERS = "image=convnet(size=16), text=bag_of_embeddings(size=12)"


def fuse(spec, modality_mask, *values):
    """Return the fused features of towers a, b, ..., and the gate weights if the fusion has them."""
    names = [chr(ord("a") + index) for index in range(len(values))]
    inputs = {name: keras.Input(x.shape[1:]) for name, x in zip(names, values, strict=True)}
    mask = keras.Input((len(values),))
    fusion_output = FUSIONS.build(parse_spec(spec)).fuse({name: Features(x) for name, x in inputs.items()}, mask)
    gate_weights = fusion_output.gate_weights
    outputs = [fusion_output.features[0].pooled] + ([] if gate_weights is None else [gate_weights])
    model = keras.Model([*inputs.values(), mask], outputs)
    results = model([*(tf.constant(x) for x in values), tf.constant(modality_mask)], training=False)
    return [np.asarray(result) for result in (results if isinstance(results, list) else [results])]


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return [rng.normal(3, 2, (5, 4)).astype(np.float32), rng.normal(-1, 9, (5, 7)).astype(np.float32)]


def normalize(x):
    """Apply layer normalization in NumPy."""
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)


def test_concat_normalizes_and_concatenates(values):
    """Features of a missing modality are zeros."""
    mask = np.array([[1, 1], [1, 0], [0, 1], [1, 1], [1, 1]], np.float32)
    (features,) = fuse("concat()", mask, *values)
    expected = np.concatenate([normalize(values[0]) * mask[:, :1], normalize(values[1]) * mask[:, 1:]], 1)
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_film_is_initialized_to_its_main_tower(values):
    """Scale and shift are the identity before training, for every main tower."""
    for main, x in (("a", values[0]), ("b", values[1])):
        (features,) = fuse(f"film(main='{main}')", np.ones((5, 2), np.float32), *values)
        np.testing.assert_allclose(features, normalize(x), atol=1e-5)


def test_initial_gate_weights(values):
    """They are equal, or almost 1 for the initial tower; an unknown tower is refused."""
    _, gate_weights = fuse("gated(dim=3)", np.ones((5, 2), np.float32), *values)
    np.testing.assert_allclose(gate_weights, 0.5, atol=1e-6)
    _, gate_weights = fuse("gated(dim=3, initial_tower='b')", np.ones((5, 2), np.float32), *values)
    np.testing.assert_allclose(gate_weights[:, 1], 1 / (1 + np.exp(-4)), atol=1e-5)
    message = complaint(fuse, "gated(initial_tower='c')", np.ones((5, 2), np.float32), *values)
    assert message == "Option initial_tower of the fusion names an unknown tower: c. Expected: a, b."


def test_modality_dropout_keeps_one_modality():
    """It drops about the expected share, keeps missing modalities missing, and is equal for the same epoch."""
    sampler = EpochSampler(3, modality_dropout=0.4)
    mask = np.tile(np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1]], np.float32), (400, 1))

    def epoch(number):
        batches = tf.data.Dataset.from_tensors(({MODALITY_MASK: tf.constant(mask)}, {}, {}))
        ((inputs, _, _),) = sampler.augment_batches(batches, tf.constant(number, tf.int64)).as_numpy_iterator()
        return inputs[MODALITY_MASK]

    dropped = epoch(1)
    assert (dropped <= mask).all()
    assert (dropped.sum(1) >= 1).all()
    assert 0.3 < 1 - dropped[0::3].mean() < 0.45
    assert (dropped[2::3] == mask[2::3]).all()
    assert np.array_equal(dropped, epoch(1))
    assert not np.array_equal(dropped, epoch(2))


def test_clip_loss_equals_numpy():
    """It is InfoNCE in both directions; a sample with a missing modality is neither anchor nor candidate."""
    rng = np.random.default_rng(1)
    projections = rng.normal(size=(4, 2, 5))
    projections /= np.linalg.norm(projections, axis=-1, keepdims=True)
    mask = np.array([[1, 1], [1, 1], [1, 0], [1, 1]], np.float32)
    complete = [0, 1, 3]
    cosines = projections[complete, 0] @ projections[complete, 1].T / 0.2
    losses = [-np.log(np.exp(np.diag(table)) / np.exp(table).sum(1)) for table in (cosines, cosines.T)]
    expected = np.zeros(4)
    expected[complete] = (losses[0] + losses[1]) / 2
    loss = CLIPLoss(0.2).call(tf.constant(mask), tf.constant(projections, tf.float32))
    np.testing.assert_allclose(loss, expected, atol=1e-5)


def test_modulation_coefficients():
    """The coefficient of the dominant tower is 1 - tanh(alpha * ratio), that of the others 1."""
    coefficients = compute_modulation_coefficients({"image": 0.8, "text": 0.2, "audio": 0.2}, 0.5)
    assert coefficients["text"] == coefficients["audio"] == 1
    assert coefficients["image"] == pytest.approx(1 - np.tanh(0.5 * 4))
    assert compute_modulation_coefficients({"image": 0.3, "text": 0.3}, 1.0) == {"image": 1, "text": 1}


def test_gradients_are_clipped_per_tower():
    """A large gradient of one tower does not shrink the gradient of another tower."""
    weights = [keras.Variable(np.zeros(2, np.float32)) for _ in range(2)]
    steps = {}
    for per_tower in (False, True):
        phase = Phase(
            epochs=1,
            learning_rate=1.0,
            optimizer="sgd",
            schedule="constant",
            warmup_ratio=0,
            clip_norm_per_tower=per_tower,
        )
        optimizer = make_optimizer(phase, 1, [1.0, 1.0], [w.numpy() for w in weights], ["image", "text"])
        gradients = [tf.constant([30.0, 40.0]), tf.constant([0.3, 0.4])]
        steps[per_tower] = [np.asarray(g) for g in optimizer._clip_gradients(gradients)]
    np.testing.assert_allclose(steps[False][0], [0.6, 0.8], atol=1e-3)
    np.testing.assert_allclose(steps[False][1], [0.006, 0.008], atol=1e-4)
    np.testing.assert_allclose(steps[True][0], [0.6, 0.8], atol=1e-3)
    np.testing.assert_allclose(steps[True][1], [0.3, 0.4], atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "muon"])
def test_modulated_towers_take_smaller_steps(optimizer):
    """The coefficient scales the update, as Adam and others ignore the scale of gradients."""
    weights = [keras.Variable(np.zeros((2, 2), np.float32), name=name) for name in ("image", "text", "both")]
    phase = Phase(
        epochs=1, optimizer=optimizer, schedule="constant", warmup_ratio=0, gradient_modulation=0.5, weight_decay=0.0
    )
    modulated = make_optimizer(phase, 1, [1.0] * 3, [w.numpy() for w in weights], ["image", "text", ""])
    modulated.build(weights)
    modulated.modulation_coefficients["image"].assign(0.25)
    modulated.apply_gradients([(tf.constant([[3.0, -1.0], [1.0, 2.0]]), weight) for weight in weights])
    image, text, both = (weight.numpy() for weight in weights)
    assert np.abs(text).min() > 0
    np.testing.assert_allclose(image, text / 4, rtol=1e-4)
    np.testing.assert_allclose(both, text, rtol=1e-4)


def test_options_per_tower():
    """One value applies to all towers; values by tower leave the default to the others."""
    assert parse_unfreeze("finetune.unfreeze", "5", ["a", "b"]) == {"a": "5", "b": "5"}
    assert parse_unfreeze("finetune.unfreeze", "a=all, b=0.3", ["a", "b", "c"]) == {"a": "all", "b": "0.3", "c": "0"}
    assert parse_lr_multipliers("finetune.lr_multipliers", "b=0.1", ["a", "b"]) == {"a": 1.0, "b": 0.1}
    message = complaint(parse_unfreeze, "finetune.unfreeze", "x=1", ["a", "b"])
    assert message == "--finetune.unfreeze names an unknown tower: x. Expected: a, b."
    assert "--finetune.lr_multipliers has an invalid value: fast. Expected: a number" in complaint(
        parse_lr_multipliers, "finetune.lr_multipliers", "a=fast", ["a", "b"]
    )
    assert parse_per_tower("o", "1", ["a"], r"\d", "a digit", "0") == {"a": "1"}


def test_one_tower_at_a_time(tmp_path):
    """Each tower has a phase that unfreezes its layer groups alone."""
    run = Run(
        data=str(tmp_path),
        backbone=TOWERS,
        frozen=Phase(),
        finetune=Phase(epochs=3, unfreeze="5", one_tower_at_a_time=True),
    )
    phases = check(run).phases
    assert {name: phase.unfreeze for name, phase in phases.items()} == {
        "finetune_image": "image=5",
        "finetune_text": "text=5",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backbone": "image=convnet(), modality_mask=convnet()"},
            "The name of a tower is reserved for another model input: modality_mask.",
        ),
        ({"backbone": TOWERS, "fusion": "gate()"}, "Unknown fusion: gate."),
        (
            {"backbone": TOWERS, "fusion": "cross_attend(dim=30)"},
            "Options of cross_attend() are inconsistent: dim=30, attention_heads=4.",
        ),
        (
            {"backbone": TOWERS, "fusion": "shared(temperature=0.0)"},
            "Options of shared() are out of range: contrastive_weight=0.1, temperature=0.0.",
        ),
        ({"backbone": TOWERS, "augment": "mixup()"}, "Augments of batches need a model with one tower: mixup()."),
        ({"backbone": TOWERS, "augment": "gain()"}, "An augment is for a modality that no tower has: gain() (audio)."),
    ],
)
def test_invalid_options_are_refused(tmp_path, options, message):
    """The error is raised before data or weights are read."""
    assert complaint(lambda: check(Run(data=str(tmp_path), **options))).startswith(message)


def test_gradient_modulation_without_cached_features(tmp_path):
    """If everything is trained on augmented samples, nothing is cached, and towers are modulated all the same."""
    rows = ["image,text,label"]
    for row in range(24):
        picture(tmp_path / f"{row}.png", row)
        rows.append(f"{row}.png,{('short', 'long')[row % 2]} {row},{'ab'[row % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    phase = Phase(epochs=2, unfreeze="all", gradient_modulation=1.0, learning_rate=0.01)
    options = {"augment": "flip()", "workdir": str(tmp_path / "run"), "finetune": phase, "frozen": Phase()}
    plan = check(Run(data=str(tmp_path / "t.csv"), backbone=TOWERS, **options))
    data, network, _ = set_up(plan)
    phase_data = prepare_phase_data({}, phase, data, training_context(plan))
    assert phase_data.train is None
    compile_for_phase(network.model, network, phase, 3)
    (modulation,) = make_modulation_callbacks(network.model, network, phase_data, phase)
    network.model.fit(phase_data.training_batches(0, 8), epochs=8, steps_per_epoch=1, shuffle=False, verbose=0)
    modulation.on_epoch_begin(0)
    coefficients = {tower: float(factor) for tower, factor in network.model.optimizer.modulation_coefficients.items()}
    assert set(coefficients) == {"image", "text"}
    assert sorted(coefficients.values())[1] == 1
    assert 0 < sorted(coefficients.values())[0] < 1
