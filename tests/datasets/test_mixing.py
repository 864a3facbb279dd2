"""Mixing of batches: what every mix promises, and what each does."""

import numpy as np
import pytest
import tensorflow as tf

from tests.contracts.test_augments import MIXES
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.types.components import AUGMENTS

COUNT = 8
MAPS = np.random.default_rng(0).integers(0, 256, (COUNT, 20, 10, 3)).astype(np.uint8)
TARGETS = {"kind": np.eye(COUNT, dtype=np.float32)}
WEIGHTS = {"kind": np.arange(COUNT, dtype=np.float32)}


def mixed(spec, seed, inputs=MAPS):
    mix = AUGMENTS.build(parse_spec(spec))
    targets, weights = ({"kind": tf.constant(values["kind"])} for values in (TARGETS, WEIGHTS))
    return mix.apply(tf.constant(inputs), targets, weights, tf.constant([seed, 7], tf.int64))


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("inputs", [MAPS, MAPS[:, 0, 0].astype(np.float32)], ids=["maps", "pooled"])
def test_targets_stay_distributions_and_weights_follow(name, inputs):
    """Each target is the sum of at most two samples', and the weight is the mean of theirs by the same shares."""
    for seed in range(10):
        x, targets, weights = mixed(name, seed, inputs)
        shares = targets["kind"].numpy()
        assert x.shape == inputs.shape
        assert np.allclose(shares.sum(1), 1, atol=1e-6)
        assert ((shares > 0).sum(1) <= 2).all()
        assert np.allclose(weights["kind"], shares @ WEIGHTS["kind"], atol=1e-4)
        again = mixed(name, seed, inputs)
        assert np.array_equal(x, again[0])


def test_mixup_averages_by_the_shares_of_the_targets():
    """x = t @ inputs, since every sample has a class of its own here."""
    moved = 0.0
    for seed in range(20):
        x, targets, _ = mixed("mixup(alpha=1.0)", seed)
        shares = targets["kind"].numpy()
        assert np.allclose(x, np.tensordot(shares, MAPS.astype(np.float32), 1), atol=1e-3)
        moved += 1 - shares.max()
    assert moved > 0.5


def test_cutmix_pastes_a_window_of_the_stated_share():
    """Every pixel is one of the two samples', and the target says how many are whose."""
    seen = set()
    for seed in range(20):
        x, targets, _ = mixed("cutmix()", seed)
        shares = targets["kind"].numpy()
        for row in range(COUNT):
            other = next((int(i) for i in np.flatnonzero(shares[row]) if i != row), row)
            theirs = (x[row].numpy() == MAPS[other]).all(-1) & ~(MAPS[row] == MAPS[other]).all(-1)
            assert ((x[row].numpy() == MAPS[row]).all(-1) | theirs).all()
            if other != row:
                assert abs(theirs.mean() - shares[row, other]) < 0.03  # pixels that agree by chance
                rows, columns = np.flatnonzero(theirs.any(1)), np.flatnonzero(theirs.any(0))
                assert theirs[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.95
                seen.add(round(float(shares[row, other]), 3))
    assert len(seen) > 10


def test_cutmix_leaves_pooled_features_as_they_are():
    """They have no place to cut at."""
    pooled = MAPS[:, 0, 0].astype(np.float32)
    assert np.array_equal(mixed("cutmix()", 0, pooled)[0], pooled)


@pytest.mark.parametrize("name", MIXES)
def test_alpha_is_positive(name):
    """Beta(0, 0) does not exist."""
    with pytest.raises(UserError, match=f"the alpha of {name} is out of range; received: 0.0; allowed: above 0"):
        AUGMENTS.build(Spec(name, (), {"alpha": 0.0}))


def epoch(order, number):
    """Positions that an epoch draws, in batches of 3, and the mixed targets."""
    rows = tf.data.Dataset.from_tensor_slices(order.rows(COUNT, tf.constant(number, tf.int64))).batch(3)
    x = tf.constant(MAPS)

    def batch(chosen):
        pixels = tf.gather(x, chosen)
        targets = {"kind": tf.gather(TARGETS["kind"], chosen)}
        return {"image": pixels}, targets, {"kind": tf.ones_like(chosen, tf.float32)}

    return [y["kind"] for _, y, _ in order.mixed(rows.map(batch), number).as_numpy_iterator()]


def test_mixing_depends_on_seed_epoch_and_batch_alone():
    """So that a resumed run mixes what it would have mixed."""
    mixes = tuple(AUGMENTS.build(Spec(name)) for name in MIXES)
    first, again = (np.concatenate(epoch(EpochSampler(1, mixes), 4)) for _ in range(2))
    assert np.array_equal(first, again)
    for seed, number in ((2, 4), (1, 5)):
        assert not np.array_equal(first, np.concatenate(epoch(EpochSampler(seed, mixes), number)))


def test_an_epoch_has_every_sample_once():
    """Without chances, in an order of its own."""
    orders = [
        EpochSampler(0).draw_sample_indices(COUNT, tf.constant(number, tf.int64)).numpy().tolist()
        for number in range(3)
    ]
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_drawn_samples_follow_their_chances():
    """Both ways, by rows and by repetition, draw the same samples."""
    chances = np.array([0.5, 0.25] + [0.25 / 6] * 6, np.float32)
    order = EpochSampler(0, (), chances)
    counts = np.zeros(COUNT)
    for number in range(200):
        drawn = order.draw_sample_indices(COUNT, tf.constant(number, tf.int64)).numpy()
        counts += np.bincount(drawn, minlength=COUNT)
        if number < 5:
            samples = tf.data.Dataset.range(COUNT).map(lambda i: (i + 100, {"name": i}))
            found = list(order.repeat_samples(samples, tf.constant(number, tf.int64)).as_numpy_iterator())
            assert sorted(drawn) == [sample["name"] for _, sample in found]
            assert len({int(index) for index, _ in found}) == COUNT  # each copy is augmented differently
            assert all((index & 0xFFFFFFFF) - 100 == sample["name"] for index, sample in found)
    assert np.abs(counts / counts.sum() - chances).max() < 0.05
