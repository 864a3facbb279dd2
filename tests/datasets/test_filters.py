"""Which samples are learned from and which are tested, by language or source."""

import dataclasses

import numpy as np
import pytest

from tests.helpers.commands import refused, within
from tests.contracts.test_objectives import SMALL, scores, table
from tfx_finetune.core.config import Evaluate, Run
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


def made() -> Table:
    language, source, group, label, split = (np.array(column, object) for column in zip(*ROWS, strict=True))
    none = np.full(len(ROWS), "", object)
    columns = {"label": label, "group": group, "language": language, "source": source}
    return Table(none, none, none, split, columns)


def sides(beside: bool = False, **options: str) -> list[str]:
    run = Run(**{name: value for name, value in options.items() if name != "leave_out"})
    run = dataclasses.replace(run, evaluate=Evaluate(options.get("leave_out", "")))
    return filter_samples(made(), ("label",), run, beside).split.tolist()


def test_by_hand():
    """Every rule, on one table of eleven samples."""
    train, val, test, out = "train", "val", "test", ""
    assert sides() == [row[4] for row in ROWS]
    english = [train, out, out, val, out, test, test, out, out, train, out]
    assert sides(train_languages="en") == english
    assert sides(train_languages="en", test_languages="fi, sv")[5:7] == [out, test]
    # Names of things in training, not those of things that are held out.
    aside = [train, UNLABELED, UNLABELED, val, out, test, test, out, out, train, UNLABELED]
    assert sides(beside=True, train_languages="en") == aside
    assert sides(beside=True)[2] == UNLABELED, "it has no label"
    left = [test if language == "fi" else split for language, *_, split in ROWS]
    assert sides(leave_out="fi") == left
    assert sides(leave_out="language=fi") == left
    assert sides(leave_out="book") == [test if row[1] == "book" else row[4] for row in ROWS]
    assert sides(leave_out="group=b")[3:9] == [test, test, test, test, train, test]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_languages": "en, swe"}, "a language that the data lacks; received: swe; allowed: en, fi, sv"),
        ({"test_languages": "de"}, "--test_languages names a language that the data lacks"),
        ({"leave_out": "bok"}, "did you mean book"),
        ({"leave_out": "source=fi"}, "--leave_out names nothing"),
        ({"train_languages": "sv", "leave_out": "sv"}, "no sample is left to learn from"),
    ],
)
def test_what_the_data_lacks(options, said):
    """Is told with what is near."""
    with pytest.raises(UserError, match=said):
        sides(**options)


def test_a_name_of_both_columns():
    """Has to be said with its column."""
    both = made()
    both.columns["source"][0] = "fi"
    run = dataclasses.replace(Run(), evaluate=Evaluate("fi"))
    with pytest.raises(UserError, match="language=fi or source=fi"):
        filter_samples(both, ("label",), run, False)


def test_columns_that_are_wanted():
    """Those that the choice reads."""
    run = dataclasses.replace(Run(train_languages="en"), evaluate=Evaluate("place=x"))
    assert list_filter_columns(run, {"language", "place"}) == ("language", "place")
    assert list_filter_columns(Run(), {}) == ()
    with pytest.raises(UserError, match="no such column"):
        list_filter_columns(run, {"language"})
    with pytest.raises(UserError, match="no column language"):
        list_filter_columns(run, {"place"})


def test_a_run_learns_one_language_and_is_tested_on_others(tmp_path):
    """Scores are those of the tested ones, and what is left out is tested whole."""
    flags = (f"--data={table(tmp_path / 't.csv')}", *SMALL, "--frozen.epochs=1")
    given = ("--train_languages=en", "--test_languages=fi,xx", "--leave_out=book")
    done = within("train", *flags, *given, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "worst language by accuracy of label" in done.stderr
    found = scores(tmp_path / "run")
    assert {"label/accuracy[fi]", "label/f1_macro[xx]", "label/accuracy[book]"} <= set(found)
    support = sum(row["support"] for row in found["label/per_class"].values())
    assert 108 < support < 216, "all of the book, and some of the web"


def test_what_does_not_fit_is_said(tmp_path):
    """Once the data is known."""
    data = table(tmp_path / "t.csv")
    flags = (f"--data={data}", *SMALL, f"--workdir={tmp_path / 'one'}")
    assert "received: fe; allowed: en, fi, xx" in refused("train", *flags, "--train_languages=fe")
    data.write_text(data.read_text().replace(",language,", ",tongue,"))
    flags = (*flags[:-1], f"--workdir={tmp_path / 'other'}")
    assert "the data has no column language" in refused("train", *flags, "--test_languages=fi")
