"""Properties of splits for arbitrary samples: units stay together, fractions are met, the order has no effect."""

import hashlib
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_finetune.datasets.splits import SampleKeys, split_by_stratified_groups, split_sources

# A slow machine is not a failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

FRACTIONS = {"test": 0.25, "val": 0.1}
COPIES = st.sampled_from([f"digest{number}" for number in range(12)])
GROUPS = st.sampled_from(["", "", "g1", "g2", "g3", "digest1"])
LABELS = st.sets(st.sampled_from("abcd"), max_size=3).map(lambda names: "\n".join(sorted(names)))
SAMPLES = st.lists(st.tuples(COPIES, LABELS, GROUPS), max_size=40)
ONE_LABEL = st.lists(st.sampled_from(["cat", "dog", "cow"]), max_size=200)
PARTS = st.dictionaries(st.sampled_from(["test", "val"]), st.sampled_from([0.05, 0.1, 0.25, 0.4]))


def split_of(samples, fractions=FRACTIONS, seed=0):
    digests, labels, groups = zip(*samples, strict=True) if samples else ((), (), ())
    return split_by_stratified_groups(digests, labels, groups, fractions, seed)


def distinct(labels):
    """Make samples of these labels, all with different contents and without groups."""
    return [(hashlib.sha256(f"{n}".encode()).hexdigest(), label, "") for n, label in enumerate(labels)]


@given(SAMPLES, PARTS, st.integers(0, 3))
def test_no_unit_is_divided(samples, fractions, seed):
    """Copies and groups, and everything connected with them, are in one split; every sample has a split."""
    split = split_of(samples, fractions, seed)
    assert len(split) == len(samples)
    assert set(split) <= {"train", *fractions}
    for key in (0, 2):
        splits_by_value = {}
        for sample, name in zip(samples, split, strict=True):
            splits_by_value.setdefault(sample[key], set()).add(name)
        splits_by_value.pop("", None)
        assert all(len(names) == 1 for names in splits_by_value.values())


@given(SAMPLES, PARTS, st.randoms())
def test_the_order_of_samples_has_no_effect(samples, fractions, random):
    """Another order of the files gives the same split."""
    order = list(range(len(samples)))
    random.shuffle(order)
    shuffled = split_of([samples[index] for index in order], fractions)
    assert list(shuffled) == list(split_of(samples, fractions)[order])


@given(SAMPLES, PARTS, st.integers(0, 3))
def test_every_label_has_training_samples(samples, fractions, seed):
    """Every label is in the training split, whatever other labels its samples have."""
    split = split_of(samples, fractions, seed)
    all_labels = {name for _, label, _ in samples for name in label.split("\n")}
    train_labels = {
        n for (_, label, _), name in zip(samples, split, strict=True) if name == "train" for n in label.split("\n")
    }
    assert train_labels == all_labels


@given(ONE_LABEL, st.integers(0, 3))
def test_fractions_are_met(labels, seed):
    """The size of a split differs by at most one sample per label."""
    samples = distinct(labels)
    counts = Counter(split_of(samples, FRACTIONS, seed))
    for name, fraction in FRACTIONS.items():
        assert abs(counts[name] - fraction * len(samples)) <= 1 + len(set(labels))
    for label, count in Counter(labels).items():
        tested = sum(
            name == "test"
            for name, value in zip(split_of(samples, FRACTIONS, seed), labels, strict=True)
            if value == label
        )
        assert abs(tested - 0.25 * count) <= 1
        assert tested >= (count > 1)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, (1, 0, 0)),
        (2, (1, 1, 0)),
        (3, (2, 1, 0)),
        (5, (3, 1, 1)),
        (8, (5, 2, 1)),
        (20, (13, 5, 2)),
        (100, (65, 25, 10)),
    ],
)
def test_sizes_by_hand(count, expected):
    """Sizes of train, test and val of a single label."""
    counts = Counter(split_of(distinct(["cat"] * count)))
    assert (counts["train"], counts["test"], counts["val"]) == expected


def test_many_small_classes_fill_every_split():
    """A tenth of 4 rounds to 0, but a tenth of 30 x 4 is 12."""
    counts = Counter(split_of(distinct([f"class {n % 30}" for n in range(120)])))
    assert (counts["test"], counts["val"]) == (30, 12)


def test_many_combinations_of_labels_fill_every_split():
    """Each label is in every split, even if almost all samples have different sets of labels."""
    random = np.random.default_rng(0)
    tags = [[f"tag {n}" for n in range(20) if random.random() < 0.02 * (n + 1)] for _ in range(600)]
    split = split_of(distinct(["\n".join(names) for names in tags]))
    assert 140 <= (split == "test").sum() <= 160
    for n in range(20):
        mask = np.array([f"tag {n}" in names for names in tags])
        assert 0.1 <= (split[mask] == "test").mean() <= 0.45


@pytest.mark.parametrize("seed", range(20))
def test_correlated_labels(seed):
    """The rarest label decides the split of a sample; the common label keeps a sample in train."""
    tagged = split_of(distinct(["common\nrare"] * 3 + ["common"] * 60), seed=seed)
    assert set(tagged[:3]) == {"train", "test"}
    pairs = ["all\na", "all\nb", "all\nc", "a", "b", "c"]
    split = split_of(distinct(pairs), seed=seed)
    assert "train" in split[:3]


@pytest.mark.parametrize("seed", range(10))
def test_a_large_group_keeps_the_fractions(seed):
    """One group of 60 among 40 single samples does not fit into a test split of 25."""
    samples = [
        (digest, label, "large" if n < 60 else "") for n, (digest, label, _) in enumerate(distinct(["cat"] * 100))
    ]
    counts = Counter(split_of(samples, seed=seed))
    assert (counts["test"], counts["val"]) == (25, 10)


def test_the_hash_decides():
    """The first samples in the order of a hash of seed and content are held out."""
    samples = distinct(["cat"] * 40)
    for seed in (0, 1):
        hashes = [hashlib.blake2b(f"{seed}/{digest}".encode(), digest_size=16).digest() for digest, _, _ in samples]
        first = sorted(range(40), key=lambda row: hashes[row])[:10]
        assert sorted(np.flatnonzero(split_of(samples, {"test": 0.25}, seed) == "test")) == sorted(first)


def test_another_process_gives_the_same_split():
    """The split does not depend on Python's hash seed."""
    code = (
        "from tfx_finetune.datasets.splits import split_by_stratified_groups as split\n"
        "labels = ['\\n'.join('abcdef'[i] for i in range(6) if n >> i & 1) for n in range(64)] * 3\n"
        "print(list(split([str(n) for n in range(192)], labels, [str(n // 2) for n in range(192)], {'test': 0.3}, 0)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert b"test" in outputs.pop()


@settings(max_examples=20)
@given(st.integers(2, 200), st.text("0123456789abcdef", min_size=8, max_size=8))
def test_an_added_sample_moves_few_others(count, digest):
    """Data that grows keeps its test split, except for samples at the cuts."""
    samples = distinct(["cat"] * count)
    before, after = split_of(samples), split_of([*samples, (digest, "cat", "")])[:-1]
    assert (before != after).sum() <= 2


def test_nothing_to_split():
    """No samples and no fractions are valid."""
    assert len(split_of([])) == 0
    assert set(split_of(distinct(["cat"] * 9), {})) == {"train"}


def split_rows(rows, fractions, seed=0):
    """Split rows of (digest, source, part) with one label and no groups."""
    digests, sources, parts = (np.array(column, object) for column in zip(*rows, strict=True))
    keys = SampleKeys(digests, np.full(len(rows), "x", object), np.full(len(rows), "", object))
    return split_sources(keys, parts, sources, fractions, seed)


@given(SAMPLES, PARTS, st.integers(0, 3))
def test_one_source_is_split_like_its_samples(samples, fractions, seed):
    """Samples of other parts keep their part, whatever the split of their copies is."""
    keys = SampleKeys(*(np.array(column, object) for column in zip(*samples, ("held", "a", "g1"), strict=True)))
    parts = np.array(["all"] * len(samples) + ["other"], object)
    split = split_sources(keys, parts, np.full(len(parts), "", object), {"": fractions}, seed)
    assert split[:-1].tolist() == split_of(samples, fractions, seed).tolist()
    assert split[-1] == "other"


@given(SAMPLES, SAMPLES, st.integers(0, 3))
def test_shared_samples_of_sources_stay_together(one, other, seed):
    """Units of several sources are not divided; a source with a test split gets no more test samples."""
    keys = SampleKeys(*(np.array(column, object) for column in zip(*one, *other, ("d", "a", ""), strict=True)))
    sources = np.array(["one"] * len(one) + ["other"] * len(other) + ["other"], object)
    parts = np.where(sources == "one", "all", "train").astype(object)
    split = split_sources(keys, parts, sources, {"one": FRACTIONS, "other": {"val": 0.2}}, seed)
    for values in (keys.digests, keys.groups):
        for value in set(values) - {""}:
            assert len(set(split[values == value])) == 1
    assert "test" not in split[sources == "other"]


def test_copies_follow_existing_splits():
    """Computed by hand: `a` lacks both splits, `b` has a test split, `c` has both."""
    rows = [("d1", "a", "train"), ("d1", "b", "test"), ("d2", "a", "train"), ("d2", "c", "val")]
    rows += [("d3", "b", "train"), ("d3", "c", "test"), ("d4", "c", "train"), ("d4", "a", "train"), ("", "a", "")]
    split = split_rows(rows, {"a": FRACTIONS, "b": {"val": 0.1}, "c": {}})
    assert split.tolist() == ["test", "test", "val", "val", "train", "test", "train", "train", ""]
