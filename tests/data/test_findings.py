"""What is said of a table of samples, and what a cleaned one lacks."""

import csv

import numpy as np
import pytest

from tfx_finetune.data.cleaned import assign_groups, select_rows_to_drop
from tfx_finetune.data.findings import (
    FINDING_KINDS,
    Finding,
    count_classes,
    find_blank_and_odd_sizes,
    find_duplicates,
    find_near_duplicates,
    find_table_issues,
    write_findings,
)
from tfx_finetune.data.fingerprints import SampleStatistics
from tfx_finetune.types.table import Table


def made(*rows, groups=()):
    """A table of (file, content, split, label); without content it cannot be read."""
    file, digest, split, label = (np.array(column, object) for column in zip(*rows, strict=True))
    reason = np.where(digest == "", "broken", "").astype(object)
    group = np.array(groups or [""] * len(rows), object)
    return Table(file, digest, reason, split, {"label": label, "group": group})


def looks(table, **measures):
    """Looks in which content is what the files hold."""
    whole = table.reason == ""
    return SampleStatistics(
        table.digest[whole], None, (), {name: np.array(values, float) for name, values in measures.items()}
    )


def rows(table):
    return np.flatnonzero(table.reason == "")


TABLE = made(
    ("a", "1", "train", "cat"),
    ("b", "1", "test", "cat"),
    ("c", "2", "train", "dog"),
    ("d", "2", "train", "cat"),
    ("e", "", "", "dog"),
    ("f", "3", "train", ""),
    ("g", "4", "train", "dog"),
    ("h", "4", "train", "dog"),
)


def test_copies_leaks_and_contradictions():
    """The held-out one is kept, the first one else; of a contradiction both are named."""
    found = {(f.kind, f.row, f.other_row) for f in find_duplicates(TABLE, "label", rows(TABLE), looks(TABLE))}
    assert found == {("leak", 0, 1), ("copy", 3, 2), ("conflict", 2, 3), ("conflict", 3, 2), ("copy", 7, 6)}


def test_what_cannot_be_used():
    """Unreadable and unlabelled samples; tagging takes samples without a label."""
    found = [(f.kind, f.row) for f in find_table_issues(TABLE, "label", True) if f.row >= 0]
    assert found == [("unreadable", 4), ("unlabelled", 5)]
    assert "unlabelled" not in {f.kind for f in find_table_issues(TABLE, "label", False)}


def test_classes():
    """Rare ones, one alone, and one that is ten times another."""
    many = made(*((str(at), str(at), "all", "cat" if at < 90 else "dog") for at in range(98)))
    found = {(f.kind, f.detail, f.score) for f in find_table_issues(many, "label", True)}
    assert found == {("rare class", "dog", 8), ("imbalance", "cat: dog", 90 / 8)}
    alone = made(*((str(at), str(at), "all", "cat") for at in range(12)))
    assert [(f.kind, f.detail) for f in find_table_issues(alone, "label", True)] == [("one class", "cat")]
    assert count_classes(["b\na", "a", ""]) == {"a": 2, "b": 1}


def test_near_copies_across_splits_are_leaks():
    """What is trained on is the one to go."""
    found = [
        (f.kind, f.row, f.other_row) for f in find_near_duplicates(TABLE, rows(TABLE), [(1, 2, 0.97), (2, 5, 0.96)])
    ]
    assert found == [("leak", 2, 1), ("near copy", 6, 2)]


def test_odd_looks():
    """One of 20 is 100 times as large, another is blank, a third very wide."""
    table = made(*((str(at), str(at), "all", "cat") for at in range(20)))
    width, height, contrast = np.full(20, 100.0), np.full(20, 100.0), np.full(20, 50.0)
    width[3], height[3], contrast[5] = 1_000, 1_000, 0.5
    width[7], height[7] = 1_000, 100 / 3
    found = {
        (f.kind, f.row, f.detail)
        for f in find_blank_and_odd_sizes(rows(table), looks(table, width=width, height=height, contrast=contrast))
    }
    assert found == {("blank", 5, ""), ("odd size", 3, "pixels"), ("odd size", 7, "width / height")}


def test_what_a_cleaned_table_lacks():
    """Nothing that a person should look at first."""
    found = [*find_table_issues(TABLE, "label", True), *find_duplicates(TABLE, "label", rows(TABLE), looks(TABLE))]
    found += [Finding(kind, 6, 1) for kind in ("wrong label", "outlier", "near copy", "blank", "odd size")]
    assert np.flatnonzero(select_rows_to_drop(found, TABLE)).tolist() == [0, 2, 3, 4, 5, 7]


def test_near_copies_share_a_group():
    """The data's own group stays, and takes in what is near to one of it."""
    table = made(*((name, name, "all", "cat") for name in "abcde"), groups=("", "g", "g", "", ""))
    found = assign_groups(table, [Finding("near copy", 3, 0), Finding("near copy", 2, 3), Finding("outlier", 4)])
    assert found.tolist() == ["g", "g", "g", "g", ""]
    assert assign_groups(table, [Finding("near copy", 4, 0)]).tolist() == ["like a", "g", "g", "", "like a"]


def test_findings_as_csv(tmp_path):
    """A row each, whatever files are called, with what to do."""
    table = made(('a "b", c', "1", "train", "cat\ndog"), ("d\udcff", "2", "test", "cat"))
    found = [Finding("leak", 0, 1, 0.98765), Finding("rare class", score=3, detail="cat")]
    write_findings(tmp_path / "findings.csv", table, "label", found)
    with (tmp_path / "findings.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "finding": "leak",
        "file": 'a "b", c',
        "split": "train",
        "label": "cat, dog",
        "other": r"d\udcff",
        "other_split": "test",
        "score": "0.9877",
        "said": "",
        "todo": FINDING_KINDS["leak"],
    }
    assert (second["finding"], second["file"], second["said"], second["score"]) == ("rare class", "", "cat", "3")


@pytest.mark.parametrize("kind", FINDING_KINDS)
def test_every_kind_says_what_to_do(kind):
    """A finding without a remedy helps nobody."""
    assert len(FINDING_KINDS[kind]) > 10
