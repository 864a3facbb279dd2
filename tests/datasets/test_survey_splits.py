"""Splits of real data layouts, from the folder to the table of the run."""

from pathlib import Path

import numpy as np

from tests.helpers.small_data import class_folder, idx_folder, load, picture, sizes, table
from tfx_finetune.core.config import Run
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.types.components import PretrainedCfg


def test_split_sizes(tmp_path):
    """Every class is in every split, and no sample is lost."""
    data = load(class_folder(tmp_path, cat=40, dog=20))
    assert sizes(data) == {"train": 39, "val": 6, "test": 15}
    for split in ("train", "val", "test"):
        assert set(data.table.columns["label"][data.table.split == split]) == {"cat", "dog"}
    assert data.labels["label"][:3] == (("cat", "dog"), (26, 13), 39)
    assert sizes(load(tmp_path, split__val=0.0)) == {"train": 45, "val": 0, "test": 15}


def test_few_samples(tmp_path):
    """A class of two samples has one in each split; a class of three has two training samples."""
    data = load(class_folder(tmp_path, cat=2, dog=3, cow=2), split__val=0.0)
    assert sizes(data) == {"train": 4, "val": 0, "test": 3}
    assert data.labels["label"].counts == (1, 1, 2)


def test_splits_follow_the_content(tmp_path):
    """Images keep their splits in another folder, under other names and in another order, but not with another seed."""
    first = load(class_folder(tmp_path / "a", cat=12, dog=12)).table
    for number, path in enumerate(sorted((tmp_path / "a").rglob("*.png"))):
        (tmp_path / "b" / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "b" / path.parent.name / f"{99 - number}.png")
    second = load(tmp_path / "b").table
    assert dict(zip(first.digest, first.split, strict=True)) == dict(zip(second.digest, second.split, strict=True))
    assert not np.array_equal(second.split, load(tmp_path / "b", seed=1).table.split)


def test_copies_and_groups_stay_together(tmp_path):
    """Samples of equal content or group stay together; copies and conflicting labels are reported."""
    lines = [f"{number}.png,{'cat' if number % 2 else 'dog'},g{number // 6}" for number in range(60)]
    path = table(tmp_path, "\n".join(["path,label,group", *lines]))
    (tmp_path / "9.png").write_bytes((tmp_path / "30.png").read_bytes())
    data_table = load(path).table
    splits_of_group = {}
    for group, split in zip(data_table.columns["group"], data_table.split, strict=True):
        splits_of_group.setdefault(group if group != "g5" else "g1", set()).add(split)
    assert all(len(names) == 1 for names in splits_of_group.values())
    assert {"train", "test"} <= set(data_table.split)
    assert data_table.warnings == (
        "1 samples are exact duplicates; a split made here keeps duplicates together",
        "1 samples have duplicates with another label",
    )


def test_leaks_of_existing_splits_are_reported(tmp_path):
    """Existing splits stay; images and groups in several splits are counted."""
    text = "path,label,split,group\na.png,x,train,1\nb.png,y,train,\nc.png,x,test,1\nd.png,y,test,\nb.png,y,test,\n"
    data_table = load(table(tmp_path, text), split__val=0.0).table
    assert list(data_table.split) == ["train", "train", "test", "test", "test"]
    assert data_table.warnings[1:] == (
        "1 samples are in more than one split of the data",
        "1 groups are in more than one split of the data",
    )


def test_missing_splits_are_cut_from_the_training_split(tmp_path):
    """If val or test is missing, it is cut from train."""
    for missing, existing in (("val", "test"), ("test", "val")):
        root = tmp_path / missing
        class_folder(root / "train", cat=20, dog=20)
        class_folder(root / existing, cow=0, cat=3, dog=2)
        for number, path in enumerate(sorted((root / existing).rglob("*.png"))):
            picture(path, 5000 + number)
        counts = sizes(load(root))
        assert counts[existing] == 5
        assert counts[missing] == {"val": 4, "test": 10}[missing]
        assert sum(counts.values()) == 45


def test_order_of_classes(tmp_path):
    """Classes are sorted unless the data fixes their order."""
    assert load(class_folder(tmp_path / "a", b=4, C=4, a=4)).labels["label"].names == ("C", "a", "b")
    digits = load(idx_folder(tmp_path / "digits", labels=(10, 2, 10, 2)))
    assert digits.labels["label"].names == ("2", "10")


def test_every_head_has_all_its_classes_in_training(tmp_path):
    """A rare class of the second head is in both splits."""
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
    """Samples may have any number of labels; counts are numbers of training samples with the label."""
    lines = [f"{n}.png,{['', 'red', 'red;big', 'big'][n % 4]}" for n in range(40)]
    data = load(table(tmp_path, "\n".join(["path,label", *lines])), heads="tag()", split__val=0.0)
    assert sizes(data) == {"train": 30, "val": 0, "test": 10}
    train_labels = list(data.table.columns["label"][data.table.split == "train"])
    names, counts, samples, _ = data.labels["label"]
    assert (names, samples) == (("big", "red"), 30)
    assert counts == tuple(sum(name in label for label in train_labels) for name in names)
    assert {"", "red", "red\nbig", "big"} == set(train_labels)


def test_the_table_is_in_the_order_of_the_source(tmp_path):
    """Row n of the table is the nth sample of all parts of the source, as the pipeline expects."""
    class_folder(tmp_path / "train", cat=20, dog=20)
    class_folder(tmp_path / "test", cat=3, dog=300)
    data = load(tmp_path, split__val=0.0)
    files = [s["file"].decode() for part in data.source.sizes for s in data.source.read(part).as_numpy_iterator()]
    assert list(data.table.file) == files
    assert [Path(file).parts[-3] for file in files] == list(data.table.split)


def test_calibration_samples_have_every_class(tmp_path):
    """Classes have equal numbers of samples; a small class gives all of its samples. The seed fixes the choice."""
    plan = check(Run(data=str(class_folder(tmp_path, cat=60, dog=8))))
    first, second = (
        prepare_data(plan, {"image": PretrainedCfg(size=8)}).representative_dataset(20)["image"] for _ in range(2)
    )
    assert first.shape == (20, 8, 8, 3)
    assert np.array_equal(first, second)
    data = prepare_data(plan, {"image": PretrainedCfg(size=8)})
    dogs = data.prepared_inputs((data.table.columns["label"] == "dog") & (data.table.split == "train"))["image"]
    is_dog = [any(np.array_equal(image, dog) for dog in dogs) for image in first]
    assert sum(is_dog) == len(dogs) < 10
