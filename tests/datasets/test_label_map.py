"""Label maps: tables that rename labels or leave them out."""

import csv

import numpy as np
import pytest

from tests.helpers.commands import SMALL_FLAGS, check_errors_before_writing, run_in_process
from tests.helpers.small_data import class_folder, complaint, load, table
from tfx_finetune.core.config import Run
from tfx_finetune.core.options import replace_options
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import open_run
from tfx_finetune.types.components import PretrainedCfg


def write_map(root, *rows, head="from,to"):
    """Write a label map."""
    (root / "map.csv").write_text("\n".join((head, *rows)) + "\n")
    return root / "map.csv"


def sources(root):
    """Write two folders whose classes have different names, and return their specs."""
    class_folder(root / "a", cat=8, dog=8, junk=3)
    class_folder(root / "b", Katze=8, dog=8)
    return f"a=folder({str(root / 'a')!r}), b=folder({str(root / 'b')!r})"


def count_labels(data):
    """Return the number of samples of each label in the splits."""
    labels = data.table.columns["label"][data.table.split != ""]
    return {label: int((labels == label).sum()) for label in set(labels)}


def test_labels_are_renamed_and_left_out(tmp_path, capsys):
    """Classes have their new names; samples that are left out are counted and listed."""
    path = write_map(tmp_path, "Katze,cat", "junk,")
    data = load(sources(tmp_path), label_map=str(path))
    assert data.labels["label"].names == ("cat", "dog")
    assert count_labels(data) == {"cat": 16, "dog": 16}
    assert [error for _, error in data.table.errors] == ["--label_map leaves junk out"] * 3
    assert f"{path} renames or leaves out 2 labels" in data.table.warnings
    assert "--label_map leaves out 3 of 35 samples; the report lists them" in capsys.readouterr().err


def test_entries_of_one_source_take_precedence(tmp_path):
    """Sources are those of --data or of the column source."""
    rows = ("dog,hound,", "dog,wolf,b", "Katze,cat,b")
    path = write_map(tmp_path, *rows, head="from,to,source")
    data = load(sources(tmp_path), label_map=str(path))
    assert count_labels(data) == {"cat": 16, "hound": 8, "wolf": 8, "junk": 3}
    lines = [f"{n}.png,{('cat', 'dog')[n % 2]},{'ab'[n // 10]}" for n in range(20)]
    path = table(tmp_path, "\n".join(["path,label,source", *lines]))
    data = load(path, label_map=str(write_map(tmp_path, "dog,wolf,b", head="from,to,source")))
    assert count_labels(data) == {"cat": 10, "dog": 5, "wolf": 5}


def test_targets_are_those_of_the_new_names(tmp_path):
    """Targets agree with the table sample by sample; two labels that get the same name become one."""
    lines = [f"{n}.png,{('red;big', 'crimson;red', 'big', 'crimson')[n % 4]}" for n in range(24)]
    data_path = table(tmp_path, "\n".join(["path,label", *lines]))
    path = write_map(tmp_path, "crimson,red")
    options = {"heads": "tag()", "label_map": str(path), "backbone": "convnet(size=8, channels=3, widths=(4,))"}
    plan, resources = open_run(replace_options(Run(data=str(data_path)), options))
    data = prepare_data(plan, {"image": PretrainedCfg(size=8)}, resources)
    assert data.tasks["label"].labels.names == ("big", "red")
    for split in ("train", "test"):
        targets = np.concatenate([y["label"] for _, y, _ in data.make_batches(split).as_numpy_iterator()])
        labels = [label.split("\n") for label in data.table.columns["label"][data.table.split == split]]
        assert targets.tolist() == [[float(name in label) for name in ("big", "red")] for label in labels]
    assert {"red\nbig", "red", "big"} == set(data.table.columns["label"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["Katz,cat"], "--label_map renames a label that no sample has: Katz. "),
        (["Katz,cat"], ". Did you mean Katze?"),
    ],
)
def test_unknown_labels(tmp_path, rows, message):
    """A misspelled label is refused with a suggestion."""
    path = write_map(tmp_path, *rows)
    assert message in complaint(lambda: load(sources(tmp_path), label_map=str(path)))


def test_a_label_of_another_source(tmp_path):
    """An entry for a source that lacks the label is refused, even if another source has the label."""
    path = write_map(tmp_path, "Katze,cat,a", head="from,to,source")
    message = complaint(lambda: load(sources(tmp_path), label_map=str(path)))
    assert "Katze (source a). Expected: cat, dog, junk." in message


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        ("from,to", ["a,b", "b,a"], "--label_map renames in a chain: a -> b, b -> a."),
        ("from,to", ["a,b", "b,"], "--label_map renames in a chain: a -> b, b -> (left out)."),
        ("from,to,source", ["cat,b,a", "b,c,"], "--label_map renames in a chain: cat -> b, b -> c."),
        ("from,to", ["a,b", "a,c"], "--label_map renames a label twice: a ("),
        ("from,to", [",b"], "A row of --label_map has no label: "),
        ("from,to", [], "--label_map is empty: "),
        ("old,new", ["a,b"], "--label_map has other columns: old, new. Expected: from, to and optionally source."),
        ("from,to,source", ["cat,b,aa"], "--label_map names an unknown source: aa. Expected: a, b."),
        ("from,to", ["a,b,c"], "The number of cells of a row differs from the header: "),
    ],
)
def test_invalid_label_maps(tmp_path, head, rows, message):
    """An invalid label map is refused before the data is read."""
    path = write_map(tmp_path, *rows, head=head)
    data_flag = f"--data={sources(tmp_path)}"
    check_errors_before_writing({(f"--label_map={path}",): message}, tmp_path / "run", data_flag, *SMALL_FLAGS)


def test_bad_flags(tmp_path):
    """A missing table and a head without labels are refused; two sources may swap their labels."""
    data_flag = f"--data={sources(tmp_path)}"
    path = write_map(tmp_path, "Katze,cat")
    cases = {
        ("--label_map=gone.csv",): "Cannot read the table: gone.csv",
        (
            f"--label_map={path}",
            "--heads=classify(column='kind')",
        ): "--label_map renames a column that no head reads: label. ",
    }
    check_errors_before_writing(cases, tmp_path / "run", data_flag, *SMALL_FLAGS)
    path = write_map(tmp_path, "dog,cat,b", "cat,dog,a", "Katze,Katze,", head="from,to,source")
    assert open_run(Run(data=data_flag.partition("=")[2], label_map=str(path)))[1].label_map


@pytest.mark.slow
def test_cleaned_data_has_new_names(tmp_path):
    """The table of `data --fix` has the new names."""
    flags = (f"--data={class_folder(tmp_path / 'a', cat=8, dog=8, junk=3)}", "--backbone=", "--fix")
    path = write_map(tmp_path, "dog,hound", "junk,")
    result = run_in_process("data", *flags, f"--label_map={path}", f"--workdir={tmp_path / 'data'}")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "data" / "cleaned.csv").open() as stream:
        assert {row["label"] for row in csv.DictReader(stream)} == {"cat", "hound"}
