"""Several towers: how training treats them, and what fusions begin with."""

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


def fused(spec, presence, *values):
    """Features that a fusion makes of these of its towers a, b, ..., and the shares."""
    names = [chr(ord("a") + at) for at in range(len(values))]
    inputs = {name: keras.Input(x.shape[1:]) for name, x in zip(names, values, strict=True)}
    there = keras.Input((len(values),))
    found = FUSIONS.build(parse_spec(spec)).fuse({name: Features(x) for name, x in inputs.items()}, there)
    outputs = [found.features[0].pooled] + ([] if found.shares is None else [found.shares])
    model = keras.Model([*inputs.values(), there], outputs)
    results = model([*(tf.constant(x) for x in values), tf.constant(presence)], training=False)
    return [np.asarray(result) for result in (results if isinstance(results, list) else [results])]


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return [rng.normal(3, 2, (5, 4)).astype(np.float32), rng.normal(-1, 9, (5, 7)).astype(np.float32)]


def scaled(x):
    """By hand what LayerNormalization does."""
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)


def test_concat_is_side_by_side(values):
    """Of one scale; zeros for what is not there."""
    presence = np.array([[1, 1], [1, 0], [0, 1], [1, 1], [1, 1]], np.float32)
    (found,) = fused("concat()", presence, *values)
    expected = np.concatenate([scaled(values[0]) * presence[:, :1], scaled(values[1]) * presence[:, 1:]], 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_film_begins_as_its_main_tower(values):
    """Scale and shift are nothing at first, whichever tower is the main one."""
    for main, x in (("a", values[0]), ("b", values[1])):
        (found,) = fused(f"film(main='{main}')", np.ones((5, 2), np.float32), *values)
        np.testing.assert_allclose(found, scaled(x), atol=1e-5)


def test_a_gate_begins_where_it_is_told(values):
    """Equal, or almost at one tower alone; a tower that there is not is said."""
    _, shares = fused("gated(dim=3)", np.ones((5, 2), np.float32), *values)
    np.testing.assert_allclose(shares, 0.5, atol=1e-6)
    _, shares = fused("gated(dim=3, initial_tower='b')", np.ones((5, 2), np.float32), *values)
    np.testing.assert_allclose(shares[:, 1], 1 / (1 + np.exp(-4)), atol=1e-5)
    said = complaint(fused, "gated(initial_tower='c')", np.ones((5, 2), np.float32), *values)
    assert said == "start of the fusion is no tower; received: c; allowed: a, b"


def test_some_towers_are_left_out_but_never_all():
    """About the share that was asked for; what was absent stays so; the same epoch leaves out the same."""
    order = EpochSampler(3, modality_dropout=0.4)
    presence = np.tile(np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1]], np.float32), (400, 1))

    def epoch(number):
        batches = tf.data.Dataset.from_tensors(({MODALITY_MASK: tf.constant(presence)}, {}, {}))
        ((inputs, _, _),) = order.augment_batches(batches, tf.constant(number, tf.int64)).as_numpy_iterator()
        return inputs[MODALITY_MASK]

    found = epoch(1)
    assert (found <= presence).all()
    assert (found.sum(1) >= 1).all()
    assert 0.3 < 1 - found[0::3].mean() < 0.45
    assert (found[2::3] == presence[2::3]).all()
    assert np.array_equal(found, epoch(1))
    assert not np.array_equal(found, epoch(2))


def test_contrast_is_infonce_both_ways():
    """Against NumPy, with a sample of which one view is missing: it is neither asked nor a candidate."""
    rng = np.random.default_rng(1)
    views = rng.normal(size=(4, 2, 5))
    views /= np.linalg.norm(views, axis=-1, keepdims=True)
    presence = np.array([[1, 1], [1, 1], [1, 0], [1, 1]], np.float32)
    both = [0, 1, 3]
    cosines = views[both, 0] @ views[both, 1].T / 0.2
    ways = [-np.log(np.exp(np.diag(table)) / np.exp(table).sum(1)) for table in (cosines, cosines.T)]
    expected = np.zeros(4)
    expected[both] = (ways[0] + ways[1]) / 2
    found = CLIPLoss(0.2).call(tf.constant(presence), tf.constant(views, tf.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_tower_that_is_ahead_is_slowed():
    """1 - tanh(alpha * ratio) for it, nothing for the others."""
    found = compute_modulation_coefficients({"image": 0.8, "text": 0.2, "audio": 0.2}, 0.5)
    assert found["text"] == found["audio"] == 1
    assert found["image"] == pytest.approx(1 - np.tanh(0.5 * 4))
    assert compute_modulation_coefficients({"image": 0.3, "text": 0.3}, 1.0) == {"image": 1, "text": 1}


def test_each_tower_is_clipped_by_itself():
    """A large gradient of one does not shrink the other's; together they would be scaled by one factor."""
    weights = [keras.Variable(np.zeros(2, np.float32)) for _ in range(2)]
    steps = {}
    for each in (False, True):
        phase = Phase(
            epochs=1, learning_rate=1.0, optimizer="sgd", schedule="constant", warmup_ratio=0, clip_norm_per_tower=each
        )
        optimizer = make_optimizer(phase, 1, [1.0, 1.0], [w.numpy() for w in weights], ["image", "text"])
        gradients = [tf.constant([30.0, 40.0]), tf.constant([0.3, 0.4])]
        steps[each] = [np.asarray(g) for g in optimizer._clip_gradients(gradients)]
    np.testing.assert_allclose(steps[False][0], [0.6, 0.8], atol=1e-3)
    np.testing.assert_allclose(steps[False][1], [0.006, 0.008], atol=1e-4)
    np.testing.assert_allclose(steps[True][0], [0.6, 0.8], atol=1e-3)
    np.testing.assert_allclose(steps[True][1], [0.3, 0.4], atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "muon"])
def test_a_slowed_tower_takes_smaller_steps(optimizer):
    """Also by Adam and its kin, to which the size of a gradient means nothing."""
    weights = [keras.Variable(np.zeros((2, 2), np.float32), name=name) for name in ("image", "text", "both")]
    phase = Phase(
        epochs=1, optimizer=optimizer, schedule="constant", warmup_ratio=0, gradient_modulation=0.5, weight_decay=0.0
    )
    made = make_optimizer(phase, 1, [1.0] * 3, [w.numpy() for w in weights], ["image", "text", ""])
    made.build(weights)
    made.modulation_coefficients["image"].assign(0.25)
    made.apply_gradients([(tf.constant([[3.0, -1.0], [1.0, 2.0]]), weight) for weight in weights])
    image, text, both = (weight.numpy() for weight in weights)
    assert np.abs(text).min() > 0
    np.testing.assert_allclose(image, text / 4, rtol=1e-4)
    np.testing.assert_allclose(both, text, rtol=1e-4)


def test_options_by_tower():
    """One for all, or by name; the others then have the rest."""
    assert parse_unfreeze("finetune.unfreeze", "5", ["a", "b"]) == {"a": "5", "b": "5"}
    assert parse_unfreeze("finetune.unfreeze", "a=all, b=0.3", ["a", "b", "c"]) == {"a": "all", "b": "0.3", "c": "0"}
    assert parse_lr_multipliers("finetune.lr_multipliers", "b=0.1", ["a", "b"]) == {"a": 1.0, "b": 0.1}
    said = complaint(parse_unfreeze, "finetune.unfreeze", "x=1", ["a", "b"])
    assert said == "--finetune.unfreeze names a tower that there is not; received: x; allowed: a, b"
    assert "--finetune.lr_multipliers is not understood; received: fast" in complaint(
        parse_lr_multipliers, "finetune.lr_multipliers", "a=fast", ["a", "b"]
    )
    assert parse_per_tower("o", "1", ["a"], r"\d", "a digit", "0") == {"a": "1"}


def test_towers_are_trained_one_after_another(tmp_path):
    """A phase a tower, of its groups alone."""
    run = Run(
        data=str(tmp_path),
        backbone=TOWERS,
        frozen=Phase(),
        finetune=Phase(epochs=3, unfreeze="5", one_tower_at_a_time=True),
    )
    phases = check(run).phases
    assert {name: phase.unfreeze for name, phase in phases.items()} == {
        "tune_image": "image=5",
        "tune_text": "text=5",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"towers": "image=convnet(), modality_mask=convnet()"}, "a tower cannot have this name"),
        ({"towers": TOWERS, "fusion": "gate()"}, "unknown fusion; received: gate"),
        ({"towers": TOWERS, "fusion": "cross_attend(dim=30)"}, "dim is no multiple of attention_heads"),
        ({"towers": TOWERS, "fusion": "shared(temperature=0.0)"}, "shared is out of range"),
        ({"towers": TOWERS, "augment": "mixup()"}, "batches of several towers are not mixed; received: mixup()"),
        ({"towers": TOWERS, "augment": "gain()"}, "an augment for what no tower takes; received: gain() (audio)"),
    ],
)
def test_mistakes_are_named(tmp_path, options, message):
    """Before data or weights are touched."""
    assert complaint(lambda: check(Run(data=str(tmp_path), **options))).startswith(message)


def test_what_towers_know_is_measured_where_training_samples_are_new_in_every_epoch(tmp_path):
    """All is trained, on augmented samples, of which nothing is kept: towers are slowed all the same."""
    rows = ["image,text,label"]
    for row in range(24):
        picture(tmp_path / f"{row}.png", row)
        rows.append(f"{row}.png,{('short', 'long')[row % 2]} {row},{'ab'[row % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    phase = Phase(epochs=2, unfreeze="all", gradient_modulation=1.0, learning_rate=0.01)
    options = {"augment": "flip()", "workdir": str(tmp_path / "run"), "tune": phase, "warm": Phase()}
    plan = check(Run(data=str(tmp_path / "t.csv"), backbone=TOWERS, **options))
    data, network, context = set_up(plan)
    fed = prepare_phase_data({}, phase, data, training_context(plan))
    assert fed.train is None
    compile_for_phase(network.model, network, phase, 3)
    (balance,) = make_modulation_callbacks(network.model, network, fed, phase)
    network.model.fit(fed.training_batches(0, 8), epochs=8, steps_per_epoch=1, shuffle=False, verbose=0)
    balance.on_epoch_begin(0)
    slowed = {tower: float(factor) for tower, factor in network.model.optimizer.modulation_coefficients.items()}
    assert set(slowed) == {"image", "text"}
    assert sorted(slowed.values())[1] == 1
    assert 0 < sorted(slowed.values())[0] < 1
