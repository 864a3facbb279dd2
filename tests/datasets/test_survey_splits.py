"""Which sample stands on which side: of data as people have it, from the folder to the table of the run."""

from pathlib import Path

import numpy as np

from tests.helpers.small_data import class_folder, idx_folder, load, picture, sizes, table
from tfx_finetune.core.config import ImageOptions, Run
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.types.components import PretrainedCfg


def test_splits_are_near_the_shares(tmp_path):
    """The usual case: every class on every side, no sample lost."""
    data = load(class_folder(tmp_path, cat=40, dog=20))
    assert sizes(data) == {"train": 39, "val": 6, "test": 15}
    for split in ("train", "val", "test"):
        assert set(data.table.columns["label"][data.table.split == split]) == {"cat", "dog"}
    assert data.labels["label"][:3] == (("cat", "dog"), (26, 13), 39)
    assert sizes(load(tmp_path, split__val=0.0)) == {"train": 45, "val": 0, "test": 15}


def test_few_samples(tmp_path):
    """Two of a class: one on each side. Three: two to learn from."""
    data = load(class_folder(tmp_path, cat=2, dog=3, cow=2), split__val=0.0)
    assert sizes(data) == {"train": 4, "val": 0, "test": 3}
    assert data.labels["label"].counts == (1, 1, 2)


def test_splits_follow_the_content(tmp_path):
    """Another folder, other names, another order: the same pictures stand on the same sides. Another seed: others."""
    first = load(class_folder(tmp_path / "a", cat=12, dog=12)).table
    for number, path in enumerate(sorted((tmp_path / "a").rglob("*.png"))):
        (tmp_path / "b" / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "b" / path.parent.name / f"{99 - number}.png")
    second = load(tmp_path / "b").table
    assert dict(zip(first.digest, first.split, strict=True)) == dict(zip(second.digest, second.split, strict=True))
    assert not np.array_equal(second.split, load(tmp_path / "b", seed=1).table.split)


def test_copies_and_groups_stay_together(tmp_path):
    """By content, and by the column `group`; a person is told of copies and of copies that disagree."""
    lines = [f"{number}.png,{'cat' if number % 2 else 'dog'},g{number // 6}" for number in range(60)]
    path = table(tmp_path, "\n".join(["path,label,group", *lines]))
    (tmp_path / "9.png").write_bytes((tmp_path / "30.png").read_bytes())
    found = load(path).table
    sides = {}
    for group, split in zip(found.columns["group"], found.split, strict=True):
        sides.setdefault(group if group != "g5" else "g1", set()).add(split)
    assert all(len(side) == 1 for side in sides.values())
    assert {"train", "test"} <= set(found.split)
    assert found.warnings == (
        "1 samples are exact copies of another one; copies are kept on one side of a split made here",
        "1 samples have copies with another label",
    )


def test_leaks_of_ready_splits_are_told(tmp_path):
    """What came split stays as it came; pictures and groups on both sides are counted."""
    text = "path,label,split,group\na.png,x,train,1\nb.png,y,train,\nc.png,x,test,1\nd.png,y,test,\nb.png,y,test,\n"
    found = load(table(tmp_path, text), split__val=0.0).table
    assert list(found.split) == ["train", "train", "test", "test", "test"]
    assert found.warnings[1:] == (
        "1 samples stand in more than one of the splits that the data came with",
        "1 groups stand in more than one of the splits that the data came with",
    )


def test_ready_splits_are_kept_and_the_missing_one_is_made(tmp_path):
    """train/ and test/ only: val is carved out of train; train/ and val/ only: test is."""
    for missing, there in (("val", "test"), ("test", "val")):
        root = tmp_path / missing
        class_folder(root / "train", cat=20, dog=20)
        class_folder(root / there, cow=0, cat=3, dog=2)
        for number, path in enumerate(sorted((root / there).rglob("*.png"))):
            picture(path, 5000 + number)
        found = sizes(load(root))
        assert found[there] == 5
        assert found[missing] == {"val": 4, "test": 10}[missing]
        assert sum(found.values()) == 45


def test_order_of_classes(tmp_path):
    """Sorted where the data has no order; a data set's own where it has one, so that numbers mean what they meant."""
    assert load(class_folder(tmp_path / "a", b=4, C=4, a=4)).labels["label"].names == ("C", "a", "b")
    digits = load(idx_folder(tmp_path / "digits", labels=(10, 2, 10, 2)))
    assert digits.labels["label"].names == ("2", "10")


def test_every_head_has_all_its_classes_in_training(tmp_path):
    """A class of the second head that is rare in the first one's classes must not end up in the test split alone."""
    lines = [f"{n}.png,{'cat' if n % 2 else 'dog'},{'rare' if n in (4, 20) else 'usual'}" for n in range(40)]
    path = table(tmp_path, "\n".join(["path,label,kind", *lines]))
    for seed in range(5):
        data = load(path, heads="a=classify(), b=classify(column='kind')", seed=seed)
        assert data.labels["b"][:3] == (
            ("rare", "usual"),
            (1, data.table.size("train") - 1),
            data.table.size("train"),
        )
        assert "rare" in data.table.columns["kind"][data.table.split == "test"]


def test_tags(tmp_path):
    """Any number of labels a sample, none as well; counts are of training samples that have the label."""
    lines = [f"{n}.png,{['', 'red', 'red;big', 'big'][n % 4]}" for n in range(40)]
    data = load(table(tmp_path, "\n".join(["path,label", *lines])), heads="tag()", split__val=0.0)
    assert sizes(data) == {"train": 30, "val": 0, "test": 10}
    trained = list(data.table.columns["label"][data.table.split == "train"])
    names, counts, samples, _ = data.labels["label"]
    assert (names, samples) == (("big", "red"), 30)
    assert counts == tuple(sum(name in label for label in trained) for name in names)
    assert {"", "red", "red\nbig", "big"} == set(trained)


def test_the_table_is_in_the_order_of_the_source(tmp_path):
    """Row n of the table is sample n that the source reads, over all parts: the pipeline relies on it."""
    class_folder(tmp_path / "train", cat=20, dog=20)
    class_folder(tmp_path / "test", cat=3, dog=300)
    found = load(tmp_path, split__val=0.0)
    files = [s["file"].decode() for part in found.source.sizes for s in found.source.read(part).as_numpy_iterator()]
    assert list(found.table.file) == files
    assert [Path(file).parts[-3] for file in files] == list(found.table.split)


def test_calibration_sees_every_class(tmp_path):
    """Classes take turns; one that has few gives all it has. The same seed gives the same samples."""
    plan = check(Run(data=str(class_folder(tmp_path, cat=60, dog=8)), image=ImageOptions(size=8)))
    first, second = (
        prepare_data(plan, {"image": PretrainedCfg(size=8)}).representative_dataset(20)["image"] for _ in range(2)
    )
    assert first.shape == (20, 8, 8, 3)
    assert np.array_equal(first, second)
    data = prepare_data(plan, {"image": PretrainedCfg(size=8)})
    dogs = data.prepared_inputs((data.table.columns["label"] == "dog") & (data.table.split == "train"))["image"]
    shown = [any(np.array_equal(one, dog) for dog in dogs) for one in first]
    assert sum(shown) == len(dogs) < 10
