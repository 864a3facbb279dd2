"""Several sources as one: their columns, parts, splits and labels, and what cannot be mixed."""

import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.annotated_data import mask_file
from tests.helpers.annotated_data import picture as sized
from tests.helpers.commands import SMALL, refused, refused_before_writing, within
from tests.helpers.small_data import class_folder, complaint, idx_folder, load, modality, picture, sounds
from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import parse_named_specs
from tfx_finetune.datasets.mixture import RandomAccessMixture, open_sources
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.run.plan import check
from tfx_finetune.types.localization import RandomAccessSource

TINY = ("--backbone=convnet(size=8, channels=3, widths=(4,))", "--finetune.epochs=1", "--exports=keras_file()")


def opened(**sources):
    return open_sources(parse_named_specs(said(**sources), ""))


def said(**sources):
    return ", ".join(f"{name}={spec}" for name, spec in sources.items())


def folder(path):
    return f"folder({str(path)!r})"


def loaded(heads="classify()", heads_by="", **sources):
    """The table and the labels of a run on several sources."""
    found = load(said(**sources), heads=heads, heads_by=heads_by)
    return found.table, found.labels


def rows(source, part):
    return list(source.read(part).as_numpy_iterator())


def sides(table, name):
    """How many samples of a source stand on each side."""
    found = table.split[table.columns["source"] == name]
    return {split: int((found == split).sum()) for split in ("train", "val", "test")}


def test_samples_say_where_they_come_from(tmp_path):
    """Evenly spread over one another, files and groups named after their source, the same at every reading."""
    source = opened(a=folder(class_folder(tmp_path / "a", cat=6)), b=folder(class_folder(tmp_path / "b", dog=3)))
    assert (source.name, source.sizes, source.paths, source.labels) == ("a_b", {"all": 9}, ("image",), ())
    found = rows(source, "all")
    assert b"".join(row["source"] for row in found) == b"abaabaaba"
    assert found[1]["file"].decode() == f"b: {tmp_path / 'b' / 'dog' / '00.png'}"
    assert found == rows(source, "all")


def test_samples_are_read_at_any_place(tmp_path):
    """As in order: parts follow one another, also where one source alone is split, and with pixels as files."""
    pixels = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)

    def held(name, sizes, of_pixels):
        parts, at = {}, 0
        for part, count in sizes.items():
            files = [f"{name}{number}" for number in range(at, at + count)]
            paths = [str(picture(tmp_path / f"{file}.png", at)) for file in files]
            images = pixels[at : at + count] if of_pixels else paths
            parts[part] = {"image": images, "label": ["x"] * count, "file": files}
            at += count
        return InMemorySource(name, (), () if of_pixels else ("image",), parts)

    members = {
        "a": held("a", {"train": 2, "val": 1, "test": 2}, True),
        "b": held("b", {"all": 3}, False),
        "c": held("c", {"test": 1, "train": 2}, False),
    }
    source = RandomAccessMixture(members, {"image": True, "label": False, "file": False})
    assert source.sizes == {"train": 7, "val": 1, "test": 3}
    ordered = [row for part in source.sizes for row in rows(source, part)]
    assert isinstance(source, RandomAccessSource)
    found = tf.data.Dataset.range(11).map(source.__getitem__)
    assert list(found.as_numpy_iterator()) == ordered
    assert source.__getitem__(tf.constant(8, tf.int64))["file"].numpy() == ordered[8]["file"]
    files = [
        f"{name}: {file}" for name, rows in members.items() for part in rows.parts.values() for file in part["file"]
    ]
    assert sorted(row["file"].decode() for row in ordered) == sorted(files)


def test_sources_that_are_read_in_order_alone_have_no_places(tmp_path):
    """One of them is enough."""
    (tmp_path / "words.csv").write_text("text,label\n" + "".join(f"meow {n},cat\n" for n in range(12)))
    path = folder(class_folder(tmp_path / "a", cat=12))
    assert isinstance(opened(a=path, b=path), RandomAccessSource)
    pairs = f"paired(image={path}, text=table({str(tmp_path / 'words.csv')!r}), val=0)"
    assert not isinstance(opened(a=path, b=pairs), RandomAccessSource)


def test_columns_are_united(tmp_path):
    """What a source lacks is empty; a group belongs to its source, and a column source to nobody."""
    (tmp_path / "a.csv").write_text("text,label,group,kind\nhello,x,1,k\nbye,y,,k\n")
    (tmp_path / "b.csv").write_text("text,label,group,source\nhei,x,1,radio\n")
    (tmp_path / "c" / "x").mkdir(parents=True)
    (tmp_path / "c" / "x" / "1.txt").write_text("salut")
    (tmp_path / "c" / "x" / "2.txt").symlink_to(tmp_path / "gone.txt")
    tables = {name: f"table({str(tmp_path / name)!r})" for name in ("a.csv", "b.csv")}
    source = opened(a=tables["a.csv"], b=tables["b.csv"], c=folder(tmp_path / "c"))
    found = {
        row["file"].decode().partition(":")[0] + row["text"].decode("utf-8", "replace"): row
        for row in rows(source, "all")
    }
    assert set(found) == {"ahello", "abye", "bhei", "csalut", "c\ufffd"}
    assert [found[name]["group"] for name in ("ahello", "abye", "bhei", "csalut")] == [b"a/1", b"", b"b/1", b""]
    assert [found[name]["kind"] for name in ("ahello", "bhei")] == [b"k", b""]
    assert found["bhei"]["source"] == b"b"
    assert source.paths == ()


def test_paths_and_pixels_become_files(tmp_path):
    """Which decode to the pixels that they were; a file that cannot be read is found by the survey."""
    idx_folder(tmp_path / "digits", labels=(0, 1, 0, 1))
    class_folder(tmp_path / "files", **{"0": 4, "1": 4})
    (tmp_path / "files" / "0" / "00.png").unlink()
    (tmp_path / "files" / "0" / "00.png").symlink_to(tmp_path / "gone.png")
    table, labels = loaded(f=folder(tmp_path / "files"), i=f"idx({str(tmp_path / 'digits')!r})")
    assert table.errors == [(f"f: {tmp_path / 'files' / '0' / '00.png'}", "not a JPEG, PNG, GIF, BMP or WebP picture")]
    assert labels["label"].names == ("0", "1")
    source = opened(f=folder(tmp_path / "files"), i=f"idx({str(tmp_path / 'digits')!r})")
    decoded = [modality().decode(tf.constant(row["image"])) for row in rows(source, "test")]
    assert [pixels.numpy()[0, 0].tolist() for pixels in decoded] == [[0] * 3, [1] * 3]


def test_masks_of_several_sources(tmp_path):
    """Their values have to be the same classes; what was found in annotations is said of each source."""
    for name, classes in (("a", "sky\nroad\n"), ("b", "sky\nroad\ntree\n"), ("c", "road\nsky\n")):
        sized(tmp_path / name / "images" / "1.png")
        sized(tmp_path / name / "images" / "alone.png")
        mask_file(tmp_path / name / "masks" / "1.png", [[0, 1] * 10] * 10)
        (tmp_path / name / "classes.txt").write_text(classes)
    specs = {name: f"masks({str(tmp_path / name)!r})" for name in "abc"}
    both = opened(a=specs["a"], b=specs["b"])
    assert (both.labels, both.paths, both.sizes) == (("sky", "road", "tree"), ("image", "mask"), {"all": 2})
    assert both.notes == tuple(
        f"{name}: pictures without a mask, left out: 1 ({tmp_path / name / 'images' / 'alone.png'})" for name in "ab"
    )
    said = "the values of masks would be other classes; received: c: road, sky; all: sky, road; "
    assert complaint(lambda: opened(a=specs["a"], c=specs["c"])).startswith(said)
    plain = folder(class_folder(tmp_path / "plain", cat=1))
    said = "the values of masks would be other classes; received: a: sky, road; all: not known beforehand; "
    assert complaint(lambda: opened(a=specs["a"], plain=plain)).startswith(said)


def test_pixels_of_several_sizes_stay_pixels(tmp_path):
    """Without a detour over files."""
    idx_folder(tmp_path / "digits")
    wide = idx_folder(tmp_path / "wide")
    spec = f"idx({str(tmp_path / 'digits')!r})"
    both = opened(a=spec, b=f"idx({str(wide)!r}, transform=('inverted',))")
    assert both.read("train").element_spec["image"].dtype == "uint8"
    assert both.labels == ("0", "1", "2", "10")
    found = rows(both, "train")
    assert [row["image"].max() for row in found[:6]] == [0, 255, 1, 254, 2, 253]


def test_each_source_is_split_by_itself(tmp_path):
    """One that came with a test split keeps it; of one without, its own share is held out."""
    class_folder(tmp_path / "a", cat=40, dog=20)
    class_folder(tmp_path / "b" / "train", cat=10, dog=10)
    for number in range(7):
        picture(tmp_path / "b" / "test" / "cat" / f"{number}.png", 9000 + number)
    for part, path in enumerate(sorted((tmp_path / "b" / "train").rglob("*.png"))):
        picture(path, 7000 + part)
    table, _ = loaded(a=folder(tmp_path / "a"), b=folder(tmp_path / "b"))
    assert sides(table, "a") == {"train": 39, "val": 6, "test": 15}
    assert sides(table, "b") == {"train": 18, "val": 2, "test": 7}
    alone = load(tmp_path / "a").table
    mine = table.columns["source"] == "a"
    where = dict(zip(alone.digest, alone.split, strict=True))
    assert [where[digest] for digest in table.digest[mine]] == table.split[mine].tolist()


def test_what_sources_share_is_on_one_side(tmp_path, capsys):
    """A copy goes where another source came with it; two that both came split stay, and a person is told."""
    class_folder(tmp_path / "a", cat=30, dog=30)
    for part, numbers in (("train", range(20)), ("test", range(20, 30))):
        for kind in ("cat", "dog"):
            (tmp_path / "b" / part / kind).mkdir(parents=True)
            for number in numbers:
                shutil.copy(tmp_path / "a" / kind / f"{number:02}.png", tmp_path / "b" / part / kind)
    table, _ = loaded(a=folder(tmp_path / "a"), b=folder(tmp_path / "b"))
    where: dict[str, set[str]] = {}
    for digest, split in zip(table.digest, table.split, strict=True):
        where.setdefault(digest, set()).add(split)
    assert all(len(found) == 1 for found in where.values())
    assert sides(table, "a") == sides(table, "b")
    assert sides(table, "a")["test"] == 20
    assert sides(table, "a")["val"] > 0
    assert "60 samples stand in more than one source" in table.warnings
    (tmp_path / "c" / "train").mkdir(parents=True)
    shutil.copytree(tmp_path / "b" / "test" / "cat", tmp_path / "c" / "train" / "cat")
    shutil.copytree(tmp_path / "b" / "train" / "dog", tmp_path / "c" / "test" / "dog")
    shutil.copytree(tmp_path / "b" / "test" / "dog", tmp_path / "c" / "train" / "dog")
    table, _ = loaded(b=folder(tmp_path / "b"), c=folder(tmp_path / "c"))
    note = "40 samples of one source stand on another side of the split that another one came with"
    assert note in table.warnings
    assert note in capsys.readouterr().err


def test_classes_are_united_by_name(tmp_path, capsys):
    """What one source has alone may be a misspelling, and is told; each may have its own heads instead."""
    sources = {
        "a": folder(class_folder(tmp_path / "a", cat=8, dog=8)),
        "b": folder(class_folder(tmp_path / "b", cow=9, dgo=9, cat=9)),
    }
    table, labels = loaded(**sources)
    assert labels["label"].names == ("cat", "cow", "dgo", "dog")
    assert "2 of 3 classes of label are in the source b alone: cow, dgo" in table.warnings
    assert "1 of 2 classes of label are in the source a alone: dog" in capsys.readouterr().err
    _, labels = loaded(heads="classify(l2_to_shared=0)", heads_by="source", **sources)
    assert {head: found.names for head, found in labels.items()} == {
        "shared": ("cat", "cow", "dgo", "dog"),
        "source": ("a", "b"),
        "a": ("cat", "dog"),
        "b": ("cat", "cow", "dgo"),
    }


def test_what_cannot_be_mixed(tmp_path):
    """Sources of different modalities, or one without what the tower takes."""
    pictures = folder(class_folder(tmp_path / "a", cat=4, dog=4))
    noises = folder(sounds(tmp_path / "b", cat=4, dog=4))
    assert complaint(lambda: opened(a=pictures, b=noises)) == (
        "the sources have no modality in common; received: a: image; b: audio; mix those of one"
    )
    (tmp_path / "t.csv").write_text("image,text,label\na/cat/00.png,one,cat\na/dog/00.png,two,dog\n")
    (tmp_path / "u.csv").write_text("text,label\nthree,cat\nfour,dog\n")
    tables = {name: f"table({str(tmp_path / f'{name}.csv')!r})" for name in ("t", "u")}
    assert complaint(lambda: loaded(**tables)) == (
        "a source has no image for the tower; received: u: text, label, file; "
        "leave it out, or take a tower for what all have"
    )


def test_bad_flags(tmp_path):
    """Before anything is written."""
    data = folder(class_folder(tmp_path / "a", cat=4, dog=4))
    refused_before_writing(
        {
            (f"--data={data}",): f"--sources wants names; received: {data}; allowed: a=folder('x'), b=tfds('mnist')",
            (f"--data=a={data}", f"--data={tmp_path / 'a'}"): "--data and --sources are two ways to say one thing",
            ("--data=a=foldr('x')",): "unknown source; received: foldr",
            ("--data=a='photos'",): "not a component spec",
            (f"--data=a={data}, a={data}",): "a name is given twice",
            (): "no data given",
        },
        tmp_path / "run",
        *SMALL,
    )


@pytest.fixture
def mixture(tmp_path):
    """Two folders, of which one came with a test split."""
    class_folder(tmp_path / "a", cat=8, dog=8)
    class_folder(tmp_path / "b" / "train", cat=6, dog=6)
    class_folder(tmp_path / "b" / "test", cat=3, dog=3)
    for number, path in enumerate(sorted((tmp_path / "b").rglob("*.png"))):
        picture(path, 7000 + number)
    return tmp_path


@pytest.mark.slow
def test_a_run(mixture):
    """Scores by source, and a refusal where the data changed."""
    sources = said(a=folder(mixture / "a"), b=folder(mixture / "b"))
    flags = (f"--data={sources}", "--nocache.enabled", *SMALL, *TINY, f"--workdir={mixture / 'run'}")
    found = within("train", *flags, "--mixture.uniform", "--mixture.epoch_length=largest")
    assert found.returncode == 0, found.stderr
    bundle = mixture / "run" / "bundle"
    scores = json.loads((bundle / "scores.json").read_text())["test"]
    assert {"label/accuracy[a]", "label/accuracy[b]"} <= set(scores)
    assert json.loads((bundle / "manifest.json").read_text())["data"]["source"] == sources
    with (bundle / "split.csv").open() as stream:
        tested = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    assert sum(row["file"].startswith("b: ") for row in tested) == 6
    scored = within("evaluate", f"--bundle={bundle}", "--format=keras", f"--data={mixture / 'b'}", "--split=test")
    assert json.loads(scored.stdout)["label/accuracy"] == scores["label/accuracy[b]"]
    (mixture / "a" / "dog" / "00.png").unlink()
    assert "the data changed since this run began" in refused(
        "train", *flags, "--mixture.uniform", "--mixture.epoch_length=largest"
    )


def test_inspect(mixture):
    """Walks a sample of several sources."""
    sources = said(a=folder(mixture / "a"), b=folder(mixture / "b"))
    found = within("inspect", f"--data={sources}", *SMALL, *TINY)
    assert found.returncode == 0, found.stderr
    assert f"source     {sources}" in found.stdout


@pytest.mark.slow
def test_data_care(mixture):
    """A cleaned table is of sources that all are split, or none."""
    given = (f"--data={said(a=folder(mixture / 'a'), b=folder(mixture / 'b'))}", "--backbone=", "--fix")
    assert "--fix wants sources that all came with splits, or none" in refused("data", *given)
    given = (f"--data={said(a=folder(mixture / 'a'), c=folder(mixture / 'b' / 'train'))}", "--backbone=", "--fix")
    found = within("data", *given, f"--workdir={mixture / 'care'}")
    assert found.returncode == 0, found.stderr
    with (mixture / "care" / "cleaned.csv").open() as stream:
        assert {row["source"] for row in csv.DictReader(stream)} == {"a", "c"}


def test_the_default_work_folder(tmp_path):
    """Is named after the sources."""
    data = folder(class_folder(tmp_path, cat=4, dog=4))
    assert str(check(Run(data=said(one=data, two=data))).workdir) == "runs/one_two"
