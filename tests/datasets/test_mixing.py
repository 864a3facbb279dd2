"""Batch augments: the contract of all of them, and the effect of each."""

import numpy as np
import pytest
import tensorflow as tf

from tests.contracts.test_augments import BATCH
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.types.components import AUGMENTS

COUNT = 8
MAPS = np.random.default_rng(0).integers(0, 256, (COUNT, 20, 10, 3)).astype(np.uint8)
TARGETS = {"kind": np.eye(COUNT, dtype=np.float32)}
WEIGHTS = {"kind": np.arange(COUNT, dtype=np.float32)}


def mix(spec, seed, inputs=MAPS):
    augment = AUGMENTS.build(parse_spec(spec))
    targets, weights = ({"kind": tf.constant(values["kind"])} for values in (TARGETS, WEIGHTS))
    return augment.apply(tf.constant(inputs), targets, weights, tf.constant([seed, 7], tf.int64))


@pytest.mark.parametrize("name", BATCH)
@pytest.mark.parametrize("inputs", [MAPS, MAPS[:, 0, 0].astype(np.float32)], ids=["maps", "pooled"])
def test_targets_stay_distributions_and_weights_follow(name, inputs):
    """Targets and weights are averages of at most two samples with the same mixing weights."""
    for seed in range(10):
        x, targets, weights = mix(name, seed, inputs)
        mixing_weights = targets["kind"].numpy()
        assert x.shape == inputs.shape
        assert np.allclose(mixing_weights.sum(1), 1, atol=1e-6)
        assert ((mixing_weights > 0).sum(1) <= 2).all()
        assert np.allclose(weights["kind"], mixing_weights @ WEIGHTS["kind"], atol=1e-4)
        again = mix(name, seed, inputs)
        assert np.array_equal(x, again[0])


def test_mixup_averages_inputs_like_targets():
    """Since every sample has a different class here, x = targets @ inputs."""
    total_change = 0.0
    for seed in range(20):
        x, targets, _ = mix("mixup(alpha=1.0)", seed)
        mixing_weights = targets["kind"].numpy()
        assert np.allclose(x, np.tensordot(mixing_weights, MAPS.astype(np.float32), 1), atol=1e-3)
        total_change += 1 - mixing_weights.max()
    assert total_change > 0.5


def test_cutmix_pastes_a_window_like_its_target():
    """Every pixel is of one of the two samples, and the target is the fraction of the pixels of each."""
    window_areas = set()
    for seed in range(20):
        x, targets, _ = mix("cutmix()", seed)
        mixing_weights = targets["kind"].numpy()
        for row in range(COUNT):
            other = next((int(i) for i in np.flatnonzero(mixing_weights[row]) if i != row), row)
            pasted = (x[row].numpy() == MAPS[other]).all(-1) & ~(MAPS[row] == MAPS[other]).all(-1)
            assert ((x[row].numpy() == MAPS[row]).all(-1) | pasted).all()
            if other != row:
                assert abs(pasted.mean() - mixing_weights[row, other]) < 0.03  # pixels that agree by chance
                rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
                assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.95
                window_areas.add(round(float(mixing_weights[row, other]), 3))
    assert len(window_areas) > 10


def test_cutmix_leaves_pooled_features_as_they_are():
    """Vectors have no area to cut."""
    pooled = MAPS[:, 0, 0].astype(np.float32)
    assert np.array_equal(mix("cutmix()", 0, pooled)[0], pooled)


@pytest.mark.parametrize("name", BATCH)
def test_alpha_is_positive(name):
    """Beta(0, 0) is not a distribution."""
    with pytest.raises(UserError, match=rf"Options of {name}\(\) are out of range: alpha=0\.0\. Expected: alpha > 0\."):
        AUGMENTS.build(Spec(name, (), {"alpha": 0.0}))


def mixed_targets(sampler, epoch):
    """Return the mixed targets of an epoch in batches of 3."""
    sample_indices = sampler.draw_sample_indices(COUNT, tf.constant(epoch, tf.int64))
    batches = tf.data.Dataset.from_tensor_slices(sample_indices).batch(3)
    x = tf.constant(MAPS)

    def gather(indices):
        pixels = tf.gather(x, indices)
        targets = {"kind": tf.gather(TARGETS["kind"], indices)}
        return {"image": pixels}, targets, {"kind": tf.ones_like(indices, tf.float32)}

    return [y["kind"] for _, y, _ in sampler.augment_batches(batches.map(gather), epoch).as_numpy_iterator()]


def test_mixing_depends_on_seed_epoch_and_batch_alone():
    """A resumed run mixes the same samples as a run without interruption."""
    augments = tuple(AUGMENTS.build(Spec(name)) for name in BATCH)
    first, again = (np.concatenate(mixed_targets(EpochSampler(1, augments), 4)) for _ in range(2))
    assert np.array_equal(first, again)
    for seed, epoch in ((2, 4), (1, 5)):
        assert not np.array_equal(first, np.concatenate(mixed_targets(EpochSampler(seed, augments), epoch)))


def test_an_epoch_has_every_sample_once():
    """Without weights, every epoch is another permutation of the samples."""
    permutations = [
        EpochSampler(0).draw_sample_indices(COUNT, tf.constant(epoch, tf.int64)).numpy().tolist() for epoch in range(3)
    ]
    assert all(sorted(indices) == list(range(COUNT)) for indices in permutations)
    assert len({tuple(indices) for indices in permutations}) == 3


def test_samples_are_drawn_by_their_weights():
    """Sampling by index and by repetition draw the same samples."""
    weights = np.array([0.5, 0.25] + [0.25 / 6] * 6, np.float32)
    sampler = EpochSampler(0, (), weights)
    counts = np.zeros(COUNT)
    for epoch in range(200):
        indices = sampler.draw_sample_indices(COUNT, tf.constant(epoch, tf.int64)).numpy()
        counts += np.bincount(indices, minlength=COUNT)
        if epoch < 5:
            samples = tf.data.Dataset.range(COUNT).map(lambda i: (i + 100, {"name": i}))
            copies = list(sampler.repeat_samples(samples, tf.constant(epoch, tf.int64)).as_numpy_iterator())
            assert sorted(indices) == [sample["name"] for _, sample in copies]
            assert len({int(index) for index, _ in copies}) == COUNT  # each copy is augmented differently
            assert all((index & 0xFFFFFFFF) - 100 == sample["name"] for index, sample in copies)
    assert np.abs(counts / counts.sum() - weights).max() < 0.05
