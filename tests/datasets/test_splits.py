"""Properties of the split, for any samples: nothing divided, nothing lost, shares met, order without effect."""

import hashlib
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_finetune.datasets.splits import split_by_stratified_groups, split_sources

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

SHARES = {"test": 0.25, "val": 0.1}
COPIES = st.sampled_from([f"digest{number}" for number in range(12)])
GROUPS = st.sampled_from(["", "", "g1", "g2", "g3", "digest1"])
LABELS = st.sets(st.sampled_from("abcd"), max_size=3).map(lambda names: "\n".join(sorted(names)))
SAMPLES = st.lists(st.tuples(COPIES, LABELS, GROUPS), max_size=40)
ONE_LABEL = st.lists(st.sampled_from(["cat", "dog", "cow"]), max_size=200)
PARTS = st.dictionaries(st.sampled_from(["test", "val"]), st.sampled_from([0.05, 0.1, 0.25, 0.4]))


def split_of(samples, shares=SHARES, seed=0):
    digests, labels, groups = zip(*samples, strict=True) if samples else ((), (), ())
    return split_by_stratified_groups(digests, labels, groups, shares, seed)


def distinct(labels):
    """Samples of these labels that are no copies and in no group."""
    return [(hashlib.sha256(f"{n}".encode()).hexdigest(), label, "") for n, label in enumerate(labels)]


@given(SAMPLES, PARTS, st.integers(0, 3))
def test_no_unit_is_divided(samples, shares, seed):
    """Copies and groups stand on one side, and so does what they are connected with; each sample on exactly one."""
    split = split_of(samples, shares, seed)
    assert len(split) == len(samples)
    assert set(split) <= {"train", *shares}
    for position in (0, 2):
        sides = {}
        for sample, side in zip(samples, split, strict=True):
            sides.setdefault(sample[position], set()).add(side)
        sides.pop("", None)
        assert all(len(found) == 1 for found in sides.values())


@given(SAMPLES, PARTS, st.randoms())
def test_the_order_of_the_samples_does_not_matter(samples, shares, random):
    """Another order of the files on another disk gives the same split."""
    order = list(range(len(samples)))
    random.shuffle(order)
    shuffled = split_of([samples[position] for position in order], shares)
    assert list(shuffled) == list(split_of(samples, shares)[order])


@given(SAMPLES, PARTS, st.integers(0, 3))
def test_every_label_is_trained(samples, shares, seed):
    """A label without training samples could not be learned, whatever its samples have beside it."""
    split = split_of(samples, shares, seed)
    everywhere = {name for _, label, _ in samples for name in label.split("\n")}
    trained = {
        n for (_, label, _), side in zip(samples, split, strict=True) if side == "train" for n in label.split("\n")
    }
    assert trained == everywhere


@given(ONE_LABEL, st.integers(0, 3))
def test_shares_are_near_what_is_asked(labels, seed):
    """Off by at most one for each label, for which it may be rounded up to one."""
    samples = distinct(labels)
    counts = Counter(split_of(samples, SHARES, seed))
    for name, share in SHARES.items():
        assert abs(counts[name] - share * len(samples)) <= 1 + len(set(labels))
    for label, count in Counter(labels).items():
        tested = sum(
            side == "test" for side, own in zip(split_of(samples, SHARES, seed), labels, strict=True) if own == label
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
    """Train, test, val of a single label."""
    counts = Counter(split_of(distinct(["cat"] * count)))
    assert (counts["train"], counts["test"], counts["val"]) == expected


def test_many_small_classes_fill_every_split():
    """A tenth of four is none, but a tenth of thirty times four is twelve."""
    counts = Counter(split_of(distinct([f"class {n % 30}" for n in range(120)])))
    assert (counts["test"], counts["val"]) == (30, 12)


def test_many_combinations_of_labels_fill_every_split():
    """Tags: hardly two samples have the same set of labels, and still each label is spread."""
    random = np.random.default_rng(0)
    tags = [[f"tag {n}" for n in range(20) if random.random() < 0.02 * (n + 1)] for _ in range(600)]
    split = split_of(distinct(["\n".join(names) for names in tags]))
    assert 140 <= (split == "test").sum() <= 160
    for n in range(20):
        own = np.array([f"tag {n}" in names for names in tags])
        assert 0.1 <= (split[own] == "test").mean() <= 0.45


@pytest.mark.parametrize("seed", range(20))
def test_labels_that_come_together(seed):
    """The rare label decides, so it is tested; the common one keeps a sample in train though others decide for it."""
    tagged = split_of(distinct(["common\nrare"] * 3 + ["common"] * 60), seed=seed)
    assert set(tagged[:3]) == {"train", "test"}
    pairs = ["all\na", "all\nb", "all\nc", "a", "b", "c"]
    split = split_of(distinct(pairs), seed=seed)
    assert "train" in split[:3]


@pytest.mark.parametrize("seed", range(10))
def test_a_large_group_does_not_upset_the_shares(seed):
    """One group of 60 among 40 single samples fits into no test split of 25, wherever the hash puts it."""
    samples = [
        (digest, label, "large" if n < 60 else "") for n, (digest, label, _) in enumerate(distinct(["cat"] * 100))
    ]
    counts = Counter(split_of(samples, seed=seed))
    assert (counts["test"], counts["val"]) == (25, 10)


def test_the_hash_decides():
    """As stated: in the order of a hash of seed and content, the front is held out. Computed here independently."""
    samples = distinct(["cat"] * 40)
    for seed in (0, 1):
        hashes = [hashlib.blake2b(f"{seed}/{digest}".encode(), digest_size=16).digest() for digest, _, _ in samples]
        front = sorted(range(40), key=lambda row: hashes[row])[:10]
        assert sorted(np.flatnonzero(split_of(samples, {"test": 0.25}, seed) == "test")) == sorted(front)


def test_another_process_gives_the_same_split():
    """Python's own hashes differ from process to process; nothing may depend on them."""
    code = (
        "from tfx_finetune.datasets.splits import assign\n"
        "labels = ['\\n'.join('abcdef'[i] for i in range(6) if n >> i & 1) for n in range(64)] * 3\n"
        "print(list(assign([str(n) for n in range(192)], labels, [str(n // 2) for n in range(192)], {'test': 0.3}, 0)))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert b"test" in found.pop()


@settings(max_examples=20)
@given(st.integers(2, 200), st.text("0123456789abcdef", min_size=8, max_size=8))
def test_an_added_sample_moves_few_others(count, digest):
    """Data that grows keeps its test set, but for the samples at the cuts."""
    samples = distinct(["cat"] * count)
    before, after = split_of(samples), split_of([*samples, (digest, "cat", "")])[:-1]
    assert (before != after).sum() <= 2


def test_nothing_to_split():
    """No samples; no split to make."""
    assert len(split_of([])) == 0
    assert set(split_of(distinct(["cat"] * 9), {})) == {"train"}


def divided(rows, shares, seed=0):
    """The sides of rows of (digest, source, part), a label and no group each."""
    digests, sources, sides = (np.array(column, object) for column in zip(*rows, strict=True))
    blank = np.full(len(rows), "", object)
    return split_sources(digests, np.full(len(rows), "x", object), blank, sides, sources, shares, seed)


@given(SAMPLES, PARTS, st.integers(0, 3))
def test_one_source_is_cut_as_it_is_by_itself(samples, shares, seed):
    """What came on another side stays there, whatever its copies do."""
    digests, labels, groups = (np.array(column, object) for column in zip(*samples, ("held", "a", "g1"), strict=True))
    sides = np.array(["all"] * len(samples) + ["other"], object)
    found = split_sources(digests, labels, groups, sides, np.full(len(sides), "", object), {"": shares}, seed)
    assert found[:-1].tolist() == split_of(samples, shares, seed).tolist()
    assert found[-1] == "other"


@given(SAMPLES, SAMPLES, st.integers(0, 3))
def test_what_sources_share_is_not_divided(one, other, seed):
    """Whatever each of them lacks; a part that a source came with gets nothing of its own."""
    digests, labels, groups = (np.array(column, object) for column in zip(*one, *other, ("d", "a", ""), strict=True))
    sources = np.array(["one"] * len(one) + ["other"] * len(other) + ["other"], object)
    sides = np.where(sources == "one", "all", "train").astype(object)
    found = split_sources(digests, labels, groups, sides, sources, {"one": SHARES, "other": {"val": 0.2}}, seed)
    for keys in (digests, groups):
        for key in set(keys) - {""}:
            assert len(set(found[keys == key])) == 1
    assert "test" not in found[sources == "other"]


def test_copies_follow_what_came_split():
    """By hand: `a` lacks both splits, `b` came with a test split, `c` with both."""
    rows = [("d1", "a", "train"), ("d1", "b", "test"), ("d2", "a", "train"), ("d2", "c", "val")]
    rows += [("d3", "b", "train"), ("d3", "c", "test"), ("d4", "c", "train"), ("d4", "a", "train"), ("", "a", "")]
    found = divided(rows, {"a": SHARES, "b": {"val": 0.1}, "c": {}})
    assert found.tolist() == ["test", "test", "val", "val", "train", "test", "train", "train", ""]
