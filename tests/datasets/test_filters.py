"""Filters of training and test samples by language or source."""

import json

import numpy as np
import pytest

from tests.helpers.commands import get_error, run_in_process
from tests.helpers.small_data import TEXT_FLAGS, write_language_table
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.filters import filter_samples, list_filter_columns
from tfx_finetune.types.table import UNLABELED, Table

ROWS = (
    # language, source, group, label, split
    ("en", "web", "a", "x", "train"),
    ("fi", "web", "a", "x", "train"),
    ("sv", "book", "a", "", "train"),
    ("en", "web", "b", "x", "val"),
    ("fi", "web", "b", "x", "val"),
    ("en", "book", "c", "y", "test"),
    ("fi", "web", "c", "y", "test"),
    ("fi", "web", "c", "y", "train"),
    ("fi", "web", "b", "x", "train"),
    ("en", "web", "", "y", "train"),
    ("fi", "web", "", "y", "train"),
)


def make_table() -> Table:
    language, source, group, label, split = (np.array(column, object) for column in zip(*ROWS, strict=True))
    empty = np.full(len(ROWS), "", object)
    columns = {"label": label, "group": group, "language": language, "source": source}
    return Table(empty, empty, empty, split, columns)


def filter_rows(keep_unlabeled: bool = False, **options: str) -> list[str]:
    return filter_samples(make_table(), ("label",), Run(**options), keep_unlabeled).split.tolist()


def test_filters_of_a_small_table():
    """Every filter gives the splits computed by hand."""
    train, val, test, out = "train", "val", "test", ""
    assert filter_rows() == [row[4] for row in ROWS]
    english = [train, out, out, val, out, test, test, out, out, train, out]
    assert filter_rows(train_languages="en") == english
    assert filter_rows(train_languages="en", test_languages="fi, sv")[5:7] == [out, test]
    # Samples of other languages are unlabeled, unless their group is held out.
    with_unlabeled = [train, UNLABELED, UNLABELED, val, out, test, test, out, out, train, UNLABELED]
    assert filter_rows(keep_unlabeled=True, train_languages="en") == with_unlabeled
    assert filter_rows(keep_unlabeled=True)[2] == UNLABELED, "it has no label"
    without_finnish = [test if language == "fi" else split for language, *_, split in ROWS]
    assert filter_rows(leave_out="fi") == without_finnish
    assert filter_rows(leave_out="language=fi") == without_finnish
    assert filter_rows(leave_out="book") == [test if row[1] == "book" else row[4] for row in ROWS]
    assert filter_rows(leave_out="group=b")[3:9] == [test, test, test, test, train, test]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train_languages": "en, swe"},
            "--train_languages names a language that the data lacks: swe. Expected: en, fi, sv",
        ),
        ({"test_languages": "de"}, "--test_languages names a language that the data lacks: de"),
        ({"leave_out": "bok"}, "Did you mean book"),
        ({"leave_out": "source=fi"}, "--leave_out names no value of the data: source=fi"),
        (
            {"train_languages": "sv", "leave_out": "sv"},
            "The filters leave no training sample: --train_languages=sv --leave_out=sv",
        ),
    ],
)
def test_unknown_values(options, message):
    """An unknown language or source is refused with a suggestion."""
    with pytest.raises(UserError, match=message):
        filter_rows(**options)


def test_a_value_of_two_columns():
    """A value of two columns needs the name of the column."""
    table = make_table()
    table.columns["source"][0] = "fi"
    with pytest.raises(UserError, match="language=fi or source=fi"):
        filter_samples(table, ("label",), Run(leave_out="fi"), False)


def test_filter_columns():
    """The columns of the filters are listed, and missing columns are refused."""
    run = Run(train_languages="en", leave_out="place=x")
    assert list_filter_columns(run, {"language", "place"}) == ("language", "place")
    assert list_filter_columns(Run(), {}) == ()
    with pytest.raises(UserError, match="The data has no such column"):
        list_filter_columns(run, {"language"})
    with pytest.raises(UserError, match="The data has no column language"):
        list_filter_columns(run, {"place"})


def test_a_run_trains_one_language_and_tests_others(tmp_path):
    """Scores are those of the test languages, and a source that is left out is tested completely."""
    flags = (f"--data={write_language_table(tmp_path / 't.csv')}", *TEXT_FLAGS, "--frozen.epochs=1")
    filters = ("--train_languages=en", "--test_languages=fi,xx", "--leave_out=book")
    done = run_in_process("train", *flags, *filters, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "worst language by accuracy of label" in done.stderr
    scores = json.loads((tmp_path / "run" / "bundle" / "scores.json").read_text())["test"]
    assert {"label/accuracy[fi]", "label/f1_macro[xx]", "label/accuracy[book]"} <= set(scores)
    support = sum(row["support"] for row in scores["label/per_class"].values())
    assert 108 < support < 216, "all samples of book, and some of web"


def test_languages_are_checked_with_the_data(tmp_path):
    """Unknown languages and a missing column are refused after the data is read."""
    data = write_language_table(tmp_path / "t.csv")
    flags = (f"--data={data}", *TEXT_FLAGS, f"--workdir={tmp_path / 'one'}")
    assert ": fe. Expected: en, fi, xx." in get_error("train", *flags, "--train_languages=fe")
    data.write_text(data.read_text().replace(",language,", ",tongue,"))
    flags = (*flags[:-1], f"--workdir={tmp_path / 'other'}")
    assert "The data has no column language" in get_error("train", *flags, "--test_languages=fi")
