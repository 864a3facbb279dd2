"""Labels under other names, by a table."""

import csv

import numpy as np
import pytest

from tests.helpers.commands import SMALL, refused_before_writing, within
from tests.helpers.small_data import class_folder, complaint, load, table
from tfx_finetune.core import config
from tfx_finetune.core.options import replace_options
from tfx_finetune.core.config import Run
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check, open_run
from tfx_finetune.types.components import PretrainedCfg


def names(root, *rows, head="from,to"):
    """Writes the table."""
    (root / "map.csv").write_text("\n".join((head, *rows)) + "\n")
    return root / "map.csv"


def sources(root):
    """Two folders whose classes have other names."""
    class_folder(root / "a", cat=8, dog=8, junk=3)
    class_folder(root / "b", Katze=8, dog=8)
    return f"a=folder({str(root / 'a')!r}), b=folder({str(root / 'b')!r})"


def counted(found):
    """How many used samples have each label."""
    used = found.table.columns["label"][found.table.split != ""]
    return {label: int((used == label).sum()) for label in set(used)}


def test_labels_are_renamed_and_left_out(tmp_path, capsys):
    """The classes are those of the new names; what becomes nothing is counted and listed."""
    path = names(tmp_path, "Katze,cat", "junk,")
    found = load(sources(tmp_path), label_map=str(path))
    assert found.labels["label"].names == ("cat", "dog")
    assert counted(found) == {"cat": 16, "dog": 16}
    assert [why for _, why in found.table.errors] == ["--label_map leaves junk out"] * 3
    assert f"2 labels have other names, or are left out, by {path}" in found.table.warnings
    assert "--label_map leaves out 3 of 35 samples; the report lists them" in capsys.readouterr().err


def test_what_is_said_of_one_source_goes_first(tmp_path):
    """With --sources, and with a table that has a column source."""
    rows = ("dog,hound,", "dog,wolf,b", "Katze,cat,b")
    path = names(tmp_path, *rows, head="from,to,source")
    found = load(sources(tmp_path), label_map=str(path))
    assert counted(found) == {"cat": 16, "hound": 8, "wolf": 8, "junk": 3}
    lines = [f"{n}.png,{('cat', 'dog')[n % 2]},{'ab'[n // 10]}" for n in range(20)]
    data = table(tmp_path, "\n".join(["path,label,source", *lines]))
    found = load(data, label_map=str(names(tmp_path, "dog,wolf,b", head="from,to,source")))
    assert counted(found) == {"cat": 10, "dog": 5, "wolf": 5}


def test_targets_are_those_of_the_new_names(tmp_path):
    """What is learned from agrees with the table, sample by sample; labels that become one count once."""
    lines = [f"{n}.png,{('red;big', 'crimson;red', 'big', 'crimson')[n % 4]}" for n in range(24)]
    data = table(tmp_path, "\n".join(["path,label", *lines]))
    path = names(tmp_path, "crimson,red")
    given = {"heads": "tag()", "label_map": str(path), "backbone": "convnet(size=8, channels=3, widths=(4,))"}
    found = prepare_data(check(replace_options(Run(data=str(data)), given)), {"image": PretrainedCfg(size=8)})
    assert found.tasks["label"].labels.names == ("big", "red")
    for split in ("train", "test"):
        targets = np.concatenate([y["label"] for _, y, _ in found.make_batches(split).as_numpy_iterator()])
        labels = [label.split("\n") for label in found.table.columns["label"][found.table.split == split]]
        assert targets.tolist() == [[float(name in label) for name in ("big", "red")] for label in labels]
    assert {"red\nbig", "red", "big"} == set(found.table.columns["label"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["Katz,cat"], "no sample has a label that --label_map renames; received: Katz; "),
        (["Katz,cat"], "; did you mean Katze?"),
    ],
)
def test_a_label_that_nobody_has(tmp_path, rows, said):
    """Is a misspelling."""
    path = names(tmp_path, *rows)
    assert said in complaint(lambda: load(sources(tmp_path), label_map=str(path)))


def test_a_label_that_this_source_has_not(tmp_path):
    """Though another one has it."""
    path = names(tmp_path, "Katze,cat,a", head="from,to,source")
    found = complaint(lambda: load(sources(tmp_path), label_map=str(path)))
    assert "received: Katze (source a); allowed: cat, dog, junk" in found


@pytest.mark.parametrize(
    ("head", "rows", "said"),
    [
        ("from,to", ["a,b", "b,a"], "--label_map renames in a chain; received: a -> b, b -> a"),
        ("from,to", ["a,b", "b,"], "--label_map renames in a chain; received: a -> b, b -> (left out)"),
        ("from,to,source", ["cat,b,a", "b,c,"], "--label_map renames in a chain; received: cat -> b, b -> c"),
        ("from,to", ["a,b", "a,c"], "--label_map renames a label twice; received: a ("),
        ("from,to", [",b"], "--label_map renames no label; received: "),
        ("from,to", [], "--label_map is empty"),
        ("old,new", ["a,b"], "--label_map has other columns; received: old, new; allowed: from, to and source"),
        ("from,to,source", ["cat,b,aa"], "--label_map names a source that there is not; received: aa; allowed: a, b"),
        ("from,to", ["a,b,c"], "a row has another number of cells than the head"),
    ],
)
def test_tables_that_cannot_be_followed(tmp_path, head, rows, said):
    """Are refused before anything is read."""
    path = names(tmp_path, *rows, head=head)
    given = f"--data={sources(tmp_path)}"
    refused_before_writing({(f"--label_map={path}",): said}, tmp_path / "run", given, *SMALL)


def test_bad_flags(tmp_path):
    """No table, or no head that reads labels; different sources may rename to what is another one's."""
    given = f"--data={sources(tmp_path)}"
    path = names(tmp_path, "Katze,cat")
    cases = {
        ("--label_map=gone.csv",): "cannot read the table; received: gone.csv",
        (f"--label_map={path}", "--heads=classify(column='kind')"): "--label_map renames what no head reads",
    }
    refused_before_writing(cases, tmp_path / "run", given, *SMALL)
    path = names(tmp_path, "dog,cat,b", "cat,dog,a", "Katze,Katze,", head="from,to,source")
    assert open_run(Run(data=given.partition("=")[2], label_map=str(path)))[1].label_map


@pytest.mark.slow
def test_data_care_sees_the_new_names(tmp_path):
    """The cleaned table has them."""
    flags = (f"--data={class_folder(tmp_path / 'a', cat=8, dog=8, junk=3)}", "--backbone=", "--fix")
    path = names(tmp_path, "dog,hound", "junk,")
    found = within("data", *flags, f"--label_map={path}", f"--workdir={tmp_path / 'data'}")
    assert found.returncode == 0, found.stderr
    with (tmp_path / "data" / "cleaned.csv").open() as stream:
        assert {row["label"] for row in csv.DictReader(stream)} == {"cat", "hound"}
