"""Issues of a table of samples, and the rows that a cleaned table omits."""

import csv

import numpy as np
import pytest

from tfx_finetune.data.cleaned import assign_groups, select_rows_to_drop
from tfx_finetune.data.fingerprints import SampleStatistics
from tfx_finetune.data.issues import (
    ISSUE_HINTS,
    DataIssue,
    count_classes,
    find_blank_and_odd_sizes,
    find_duplicates,
    find_near_duplicates,
    find_table_issues,
    write_issues,
)
from tfx_finetune.types.table import Table


def make_table(*rows, groups=()):
    """A table of (file, digest, split, label); a sample without a digest is unreadable."""
    file, digest, split, label = (np.array(column, object) for column in zip(*rows, strict=True))
    error = np.where(digest == "", "broken", "").astype(object)
    group = np.array(groups or [""] * len(rows), object)
    return Table(file, digest, error, split, {"label": label, "group": group})


def make_statistics(table, **measurements):
    """Statistics of the readable samples, whose content hashes are the digests of the files."""
    hashes = table.digest[table.error == ""]
    return SampleStatistics(hashes, None, (), {name: np.array(values, float) for name, values in measurements.items()})


def readable_rows(table):
    return np.flatnonzero(table.error == "")


TABLE = make_table(
    ("a", "1", "train", "cat"),
    ("b", "1", "test", "cat"),
    ("c", "2", "train", "dog"),
    ("d", "2", "train", "cat"),
    ("e", "", "", "dog"),
    ("f", "3", "train", ""),
    ("g", "4", "train", "dog"),
    ("h", "4", "train", "dog"),
)


def test_duplicates_leakage_and_label_conflicts():
    """The held-out duplicate is kept, otherwise the first one; both samples of a label conflict are listed."""
    issues = find_duplicates(TABLE, "label", readable_rows(TABLE), make_statistics(TABLE))
    assert {(issue.kind, issue.row, issue.other_row) for issue in issues} == {
        ("leakage", 0, 1),
        ("duplicate", 3, 2),
        ("label_conflict", 2, 3),
        ("label_conflict", 3, 2),
        ("duplicate", 7, 6),
    }


def test_a_label_conflict_with_the_first_sample():
    """Row 0 counts like every other row."""
    table = make_table(("a", "1", "train", "cat"), ("b", "1", "train", "dog"))
    issues = find_duplicates(table, "label", readable_rows(table), make_statistics(table))
    conflicts = {(issue.row, issue.other_row) for issue in issues if issue.kind == "label_conflict"}
    assert conflicts == {(0, 1), (1, 0)}


def test_unreadable_and_unlabeled_samples():
    """A sample without a label is no issue for tagging."""
    issues = [(issue.kind, issue.row) for issue in find_table_issues(TABLE, "label", True) if issue.row >= 0]
    assert issues == [("unreadable", 4), ("unlabeled", 5)]
    assert "unlabeled" not in {issue.kind for issue in find_table_issues(TABLE, "label", False)}


def test_rare_classes_imbalance_and_single_class():
    """A class with fewer than ten samples is rare; a class ten times as large as another is imbalanced."""
    table = make_table(*((str(n), str(n), "all", "cat" if n < 90 else "dog") for n in range(98)))
    issues = {(issue.kind, issue.detail, issue.score) for issue in find_table_issues(table, "label", True)}
    assert issues == {("rare_class", "dog", 8), ("imbalance", "cat: dog", 90 / 8)}
    table = make_table(*((str(n), str(n), "all", "cat") for n in range(12)))
    issues = [(issue.kind, issue.detail) for issue in find_table_issues(table, "label", True)]
    assert issues == [("single_class", "cat")]
    assert count_classes(["b\na", "a", ""]) == {"a": 2, "b": 1}


def test_near_duplicates_in_different_splits_are_leakage():
    """The training sample is the one to remove."""
    pairs = [(1, 2, 0.97), (2, 5, 0.96)]
    issues = find_near_duplicates(TABLE, readable_rows(TABLE), pairs)
    assert [(issue.kind, issue.row, issue.other_row) for issue in issues] == [
        ("leakage", 2, 1),
        ("near_duplicate", 6, 2),
    ]


def test_blank_images_and_odd_sizes():
    """One image of 20 has 100 times the pixels, one is blank, one is very wide."""
    table = make_table(*((str(n), str(n), "all", "cat") for n in range(20)))
    width, height, contrast = np.full(20, 100.0), np.full(20, 100.0), np.full(20, 50.0)
    width[3], height[3], contrast[5] = 1_000, 1_000, 0.5
    width[7], height[7] = 1_000, 100 / 3
    statistics = make_statistics(table, width=width, height=height, contrast=contrast)
    issues = find_blank_and_odd_sizes(readable_rows(table), statistics)
    assert {(issue.kind, issue.row, issue.detail) for issue in issues} == {
        ("blank", 5, ""),
        ("odd_size", 3, "pixels"),
        ("odd_size", 7, "width / height"),
    }


def test_dropped_rows_exclude_issues_that_need_a_decision():
    """Label errors, outliers, near-duplicates, blank samples and odd sizes stay in the cleaned table."""
    issues = [
        *find_table_issues(TABLE, "label", True),
        *find_duplicates(TABLE, "label", readable_rows(TABLE), make_statistics(TABLE)),
    ]
    kinds = ("label_error", "outlier", "near_duplicate", "blank", "odd_size")
    issues += [DataIssue(kind, 6, 1) for kind in kinds]
    assert np.flatnonzero(select_rows_to_drop(issues, TABLE)).tolist() == [0, 2, 3, 4, 5, 7]


def test_near_duplicates_get_one_group():
    """A group of the data keeps its name and includes the near-duplicates of its samples."""
    table = make_table(*((name, name, "all", "cat") for name in "abcde"), groups=("", "g", "g", "", ""))
    issues = [DataIssue("near_duplicate", 3, 0), DataIssue("near_duplicate", 2, 3), DataIssue("outlier", 4)]
    assert assign_groups(table, issues).tolist() == ["g", "g", "g", "g", ""]
    assert assign_groups(table, [DataIssue("near_duplicate", 4, 0)]).tolist() == ["like a", "g", "g", "", "like a"]


def test_issues_are_written_as_csv(tmp_path):
    """Each issue is a row, for any file names, with a hint."""
    table = make_table(('a "b", c', "1", "train", "cat\ndog"), ("d\udcff", "2", "test", "cat"))
    issues = [DataIssue("leakage", 0, 1, 0.98765), DataIssue("rare_class", score=3, detail="cat")]
    write_issues(tmp_path / "issues.csv", table, "label", issues)
    with (tmp_path / "issues.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "kind": "leakage",
        "file": 'a "b", c',
        "split": "train",
        "label": "cat, dog",
        "other_file": r"d\udcff",
        "other_split": "test",
        "score": "0.9877",
        "detail": "",
        "hint": ISSUE_HINTS["leakage"],
    }
    assert (second["kind"], second["file"], second["detail"], second["score"]) == ("rare_class", "", "cat", "3")


@pytest.mark.parametrize("kind", ISSUE_HINTS)
def test_every_kind_has_a_hint(kind):
    """A hint is a sentence of more than ten characters."""
    assert len(ISSUE_HINTS[kind]) > 10
