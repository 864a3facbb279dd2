"""Mixtures of sources: columns, parts, splits, labels, and sources that cannot be mixed."""

import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.annotated_data import write_image, write_mask
from tests.helpers.commands import SMALL_FLAGS, check_errors_before_writing, get_error, run_in_process
from tests.helpers.small_data import class_folder, complaint, idx_folder, load, modality, picture, sounds
from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import parse_named_specs
from tfx_finetune.datasets.mixture import RandomAccessMixture, open_sources
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.run.plan import check
from tfx_finetune.types.localization import RandomAccessSource

TINY = ("--backbone=convnet(size=8, channels=3, widths=(4,))", "--finetune.epochs=1", "--exports=keras_file()")


def open_mixture(**sources):
    return open_sources(parse_named_specs(format_data(**sources), ""))


def format_data(**sources):
    return ", ".join(f"{name}={spec}" for name, spec in sources.items())


def folder(path):
    return f"folder({str(path)!r})"


def load_mixture(heads="classify()", heads_by="", **sources):
    """Return the table and the labels of a run on several sources."""
    data = load(format_data(**sources), heads=heads, heads_by=heads_by)
    return data.table, data.labels


def rows(source, part):
    return list(source.read(part).as_numpy_iterator())


def count_splits(table, name):
    """Return the number of samples of a source in each split."""
    source_splits = table.split[table.columns["source"] == name]
    return {split: int((source_splits == split).sum()) for split in ("train", "val", "test")}


def test_samples_have_their_source(tmp_path):
    """Samples are evenly interleaved, named after their source, and always in the same order."""
    source = open_mixture(a=folder(class_folder(tmp_path / "a", cat=6)), b=folder(class_folder(tmp_path / "b", dog=3)))
    assert (source.name, source.sizes, source.paths, source.labels) == ("a_b", {"all": 9}, ("image",), ())
    samples = rows(source, "all")
    assert b"".join(row["source"] for row in samples) == b"abaabaaba"
    assert samples[1]["file"].decode() == f"b: {tmp_path / 'b' / 'dog' / '00.png'}"
    assert samples == rows(source, "all")


def test_samples_are_read_by_index(tmp_path):
    """Samples read by index are those read in order, also if only some sources have splits or pixels."""
    pixels = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)

    def make_source(name, sizes, has_pixels):
        parts, first = {}, 0
        for part, count in sizes.items():
            files = [f"{name}{number}" for number in range(first, first + count)]
            paths = [str(picture(tmp_path / f"{file}.png", first)) for file in files]
            images = pixels[first : first + count] if has_pixels else paths
            parts[part] = {"image": images, "label": ["x"] * count, "file": files}
            first += count
        return InMemorySource(name, (), () if has_pixels else ("image",), parts)

    members = {
        "a": make_source("a", {"train": 2, "val": 1, "test": 2}, True),
        "b": make_source("b", {"all": 3}, False),
        "c": make_source("c", {"test": 1, "train": 2}, False),
    }
    source = RandomAccessMixture(members, {"image": True, "label": False, "file": False})
    assert source.sizes == {"train": 7, "val": 1, "test": 3}
    ordered = [row for part in source.sizes for row in rows(source, part)]
    assert isinstance(source, RandomAccessSource)
    assert len(source) == 11
    by_index = tf.data.Dataset.range(11).map(lambda index: source[index])
    assert list(by_index.as_numpy_iterator()) == ordered
    assert source[tf.constant(8, tf.int64)]["file"].numpy() == ordered[8]["file"]
    files = [
        f"{name}: {file}" for name, rows in members.items() for part in rows.parts.values() for file in part["file"]
    ]
    assert sorted(row["file"].decode() for row in ordered) == sorted(files)


def test_random_access_needs_all_sources(tmp_path):
    """A mixture with a source that reads only in order has no random access."""
    (tmp_path / "words.csv").write_text("text,label\n" + "".join(f"meow {n},cat\n" for n in range(12)))
    path = folder(class_folder(tmp_path / "a", cat=12))
    assert isinstance(open_mixture(a=path, b=path), RandomAccessSource)
    pairs = f"paired(image={path}, text=table({str(tmp_path / 'words.csv')!r}), val=0)"
    assert not isinstance(open_mixture(a=path, b=pairs), RandomAccessSource)


def test_columns_are_merged(tmp_path):
    """Missing columns are empty; groups get the name of their source; a column source is replaced."""
    (tmp_path / "a.csv").write_text("text,label,group,kind\nhello,x,1,k\nbye,y,,k\n")
    (tmp_path / "b.csv").write_text("text,label,group,source\nhei,x,1,radio\n")
    (tmp_path / "c" / "x").mkdir(parents=True)
    (tmp_path / "c" / "x" / "1.txt").write_text("salut")
    (tmp_path / "c" / "x" / "2.txt").symlink_to(tmp_path / "gone.txt")
    tables = {name: f"table({str(tmp_path / name)!r})" for name in ("a.csv", "b.csv")}
    source = open_mixture(a=tables["a.csv"], b=tables["b.csv"], c=folder(tmp_path / "c"))
    samples = {
        row["file"].decode().partition(":")[0] + row["text"].decode("utf-8", "replace"): row
        for row in rows(source, "all")
    }
    assert set(samples) == {"ahello", "abye", "bhei", "csalut", "c\ufffd"}
    assert [samples[name]["group"] for name in ("ahello", "abye", "bhei", "csalut")] == [b"a/1", b"", b"b/1", b""]
    assert [samples[name]["kind"] for name in ("ahello", "bhei")] == [b"k", b""]
    assert samples["bhei"]["source"] == b"b"
    assert source.paths == ()


def test_paths_and_pixels_become_files(tmp_path):
    """The files decode to the same pixels; the survey finds a file that cannot be read."""
    idx_folder(tmp_path / "digits", labels=(0, 1, 0, 1))
    class_folder(tmp_path / "files", **{"0": 4, "1": 4})
    (tmp_path / "files" / "0" / "00.png").unlink()
    (tmp_path / "files" / "0" / "00.png").symlink_to(tmp_path / "gone.png")
    table, labels = load_mixture(f=folder(tmp_path / "files"), i=f"idx({str(tmp_path / 'digits')!r})")
    assert table.errors == [(f"f: {tmp_path / 'files' / '0' / '00.png'}", "not a JPEG, PNG, GIF, BMP or WebP image")]
    assert labels["label"].names == ("0", "1")
    source = open_mixture(f=folder(tmp_path / "files"), i=f"idx({str(tmp_path / 'digits')!r})")
    decoded = [modality().decode(tf.constant(row["image"])) for row in rows(source, "test")]
    assert [pixels.numpy()[0, 0].tolist() for pixels in decoded] == [[0] * 3, [1] * 3]


def test_masks_of_several_sources(tmp_path):
    """Mask values must be the same classes; annotation issues are reported by source."""
    for name, classes in (("a", "sky\nroad\n"), ("b", "sky\nroad\ntree\n"), ("c", "road\nsky\n")):
        write_image(tmp_path / name / "images" / "1.png")
        write_image(tmp_path / name / "images" / "alone.png")
        write_mask(tmp_path / name / "masks" / "1.png", [[0, 1] * 10] * 10)
        (tmp_path / name / "classes.txt").write_text(classes)
    specs = {name: f"masks({str(tmp_path / name)!r})" for name in "abc"}
    both = open_mixture(a=specs["a"], b=specs["b"])
    assert (both.labels, both.paths, both.sizes) == (("sky", "road", "tree"), ("image", "mask"), {"all": 2})
    assert both.warnings == tuple(
        f"{name}: images without a mask, left out: 1 ({tmp_path / name / 'images' / 'alone.png'})" for name in "ab"
    )
    message = "Mask values of a source would become other classes: c: road, sky; all: sky, road. "
    assert complaint(lambda: open_mixture(a=specs["a"], c=specs["c"])).startswith(message)
    plain = folder(class_folder(tmp_path / "plain", cat=1))
    message = "Mask values of a source would become other classes: a: sky, road; all: unknown. "
    assert complaint(lambda: open_mixture(a=specs["a"], plain=plain)).startswith(message)


def test_pixels_of_several_sizes_stay_pixels(tmp_path):
    """They are not encoded as files."""
    idx_folder(tmp_path / "digits")
    wide = idx_folder(tmp_path / "wide")
    spec = f"idx({str(tmp_path / 'digits')!r})"
    both = open_mixture(a=spec, b=f"idx({str(wide)!r}, transform=('inverted',))")
    assert both.read("train").element_spec["image"].dtype == "uint8"
    assert both.labels == ("0", "1", "2", "10")
    samples = rows(both, "train")
    assert [row["image"].max() for row in samples[:6]] == [0, 255, 1, 254, 2, 253]


def test_each_source_is_split_separately(tmp_path):
    """A source with a test split keeps it; from a source without splits, its own fraction is held out."""
    class_folder(tmp_path / "a", cat=40, dog=20)
    class_folder(tmp_path / "b" / "train", cat=10, dog=10)
    for number in range(7):
        picture(tmp_path / "b" / "test" / "cat" / f"{number}.png", 9000 + number)
    for part, path in enumerate(sorted((tmp_path / "b" / "train").rglob("*.png"))):
        picture(path, 7000 + part)
    table, _ = load_mixture(a=folder(tmp_path / "a"), b=folder(tmp_path / "b"))
    assert count_splits(table, "a") == {"train": 39, "val": 6, "test": 15}
    assert count_splits(table, "b") == {"train": 18, "val": 2, "test": 7}
    alone = load(tmp_path / "a").table
    mask = table.columns["source"] == "a"
    split_of_digest = dict(zip(alone.digest, alone.split, strict=True))
    assert [split_of_digest[digest] for digest in table.digest[mask]] == table.split[mask].tolist()


def test_shared_samples_are_in_one_split(tmp_path, capsys):
    """A copy gets the split of a source that has splits; if both sources have splits, a warning is logged."""
    class_folder(tmp_path / "a", cat=30, dog=30)
    for part, numbers in (("train", range(20)), ("test", range(20, 30))):
        for kind in ("cat", "dog"):
            (tmp_path / "b" / part / kind).mkdir(parents=True)
            for number in numbers:
                shutil.copy(tmp_path / "a" / kind / f"{number:02}.png", tmp_path / "b" / part / kind)
    table, _ = load_mixture(a=folder(tmp_path / "a"), b=folder(tmp_path / "b"))
    splits_of_digest: dict[str, set[str]] = {}
    for digest, split in zip(table.digest, table.split, strict=True):
        splits_of_digest.setdefault(digest, set()).add(split)
    assert all(len(names) == 1 for names in splits_of_digest.values())
    assert count_splits(table, "a") == count_splits(table, "b")
    assert count_splits(table, "a")["test"] == 20
    assert count_splits(table, "a")["val"] > 0
    assert "60 samples are in more than one source" in table.warnings
    (tmp_path / "c" / "train").mkdir(parents=True)
    shutil.copytree(tmp_path / "b" / "test" / "cat", tmp_path / "c" / "train" / "cat")
    shutil.copytree(tmp_path / "b" / "train" / "dog", tmp_path / "c" / "test" / "dog")
    shutil.copytree(tmp_path / "b" / "test" / "dog", tmp_path / "c" / "train" / "dog")
    table, _ = load_mixture(b=folder(tmp_path / "b"), c=folder(tmp_path / "c"))
    warning = "40 samples are in different splits of sources that came with splits"
    assert warning in table.warnings
    assert warning in capsys.readouterr().err


def test_classes_are_merged_by_name(tmp_path, capsys):
    """A class of one source only may be misspelled and is reported; each source may have its own head."""
    sources = {
        "a": folder(class_folder(tmp_path / "a", cat=8, dog=8)),
        "b": folder(class_folder(tmp_path / "b", cow=9, dgo=9, cat=9)),
    }
    table, labels = load_mixture(**sources)
    assert labels["label"].names == ("cat", "cow", "dgo", "dog")
    assert "2 of 3 classes of label are in the source b only: cow, dgo" in table.warnings
    assert "1 of 2 classes of label are in the source a only: dog" in capsys.readouterr().err
    _, labels = load_mixture(heads="classify(l2_to_shared=0)", heads_by="source", **sources)
    assert {head: head_labels.names for head, head_labels in labels.items()} == {
        "shared": ("cat", "cow", "dgo", "dog"),
        "source": ("a", "b"),
        "a": ("cat", "dog"),
        "b": ("cat", "cow", "dgo"),
    }


def test_incompatible_sources(tmp_path):
    """Sources of different modalities, and a source without the column of the backbone, are refused."""
    images = folder(class_folder(tmp_path / "a", cat=4, dog=4))
    recordings = folder(sounds(tmp_path / "b", cat=4, dog=4))
    assert complaint(lambda: open_mixture(a=images, b=recordings)) == (
        "The sources have no modality in common: a: image; b: audio. Mix sources of one modality."
    )
    (tmp_path / "t.csv").write_text("image,text,label\na/cat/00.png,one,cat\na/dog/00.png,two,dog\n")
    (tmp_path / "u.csv").write_text("text,label\nthree,cat\nfour,dog\n")
    tables = {name: f"table({str(tmp_path / f'{name}.csv')!r})" for name in ("t", "u")}
    assert complaint(lambda: load_mixture(**tables)) == (
        "A source has no column image for the backbone: u: text, label, file. "
        "Leave the source out, or use a backbone for a modality that all sources have."
    )


def test_bad_flags(tmp_path):
    """Invalid sources are refused before anything is written."""
    data = folder(class_folder(tmp_path / "a", cat=4, dog=4))
    check_errors_before_writing(
        {
            (f"--data=a={data}, {data}",): "The text is not a component spec: ",
            (f"--data={data}, a={data}",): "These components have no names: ",
            ("--data=a=foldr('x')",): "Unknown source: foldr. ",
            ("--data=a='photos'",): "No such file or folder: a='photos'. ",
            (f"--data=a={data}, a={data}",): "A name is given twice: ",
            (): "--data is missing. ",
        },
        tmp_path / "run",
        *SMALL_FLAGS,
    )


@pytest.fixture
def mixture(tmp_path):
    """Write two folders, one of which has a test split."""
    class_folder(tmp_path / "a", cat=8, dog=8)
    class_folder(tmp_path / "b" / "train", cat=6, dog=6)
    class_folder(tmp_path / "b" / "test", cat=3, dog=3)
    for number, path in enumerate(sorted((tmp_path / "b").rglob("*.png"))):
        picture(path, 7000 + number)
    return tmp_path


@pytest.mark.slow
def test_a_run(mixture):
    """A run has scores by source, and does not resume on changed data."""
    sources = format_data(a=folder(mixture / "a"), b=folder(mixture / "b"))
    flags = (f"--data={sources}", "--nocache.enabled", *SMALL_FLAGS, *TINY, f"--workdir={mixture / 'run'}")
    result = run_in_process("train", *flags, "--mixture.temperature=inf", "--mixture.epoch_length=largest")
    assert result.returncode == 0, result.stderr
    bundle = mixture / "run" / "bundle"
    scores = json.loads((bundle / "scores.json").read_text())["test"]
    assert {"label/accuracy[a]", "label/accuracy[b]"} <= set(scores)
    assert json.loads((bundle / "manifest.json").read_text())["data"]["source"] == sources
    with (bundle / "split.csv").open() as stream:
        test_rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    assert sum(row["file"].startswith("b: ") for row in test_rows) == 6
    evaluated = run_in_process(
        "evaluate", f"--bundle={bundle}", "--format=keras", f"--data={mixture / 'b'}", "--split=test"
    )
    assert json.loads(evaluated.stdout)["label/accuracy"] == scores["label/accuracy[b]"]
    (mixture / "a" / "dog" / "00.png").unlink()
    assert "The data changed since the run started: " in get_error(
        "train", *flags, "--mixture.temperature=inf", "--mixture.epoch_length=largest"
    )


def test_inspect(mixture):
    """`inspect` shows a sample of several sources."""
    sources = format_data(a=folder(mixture / "a"), b=folder(mixture / "b"))
    result = run_in_process("inspect", f"--data={sources}", *SMALL_FLAGS, *TINY)
    assert result.returncode == 0, result.stderr
    assert f"source     {sources}" in result.stdout


@pytest.mark.slow
def test_cleaned_data(mixture):
    """`data --fix` needs sources that all have splits, or none."""
    flags = (f"--data={format_data(a=folder(mixture / 'a'), b=folder(mixture / 'b'))}", "--backbone=", "--fix")
    assert "--fix needs sources that all have splits, or none: a: no splits, b: splits. " in get_error("data", *flags)
    flags = (
        f"--data={format_data(a=folder(mixture / 'a'), c=folder(mixture / 'b' / 'train'))}",
        "--backbone=",
        "--fix",
    )
    result = run_in_process("data", *flags, f"--workdir={mixture / 'care'}")
    assert result.returncode == 0, result.stderr
    with (mixture / "care" / "cleaned.csv").open() as stream:
        assert {row["source"] for row in csv.DictReader(stream)} == {"a", "c"}


def test_default_work_folder(tmp_path):
    """The work folder is named after the sources."""
    data = folder(class_folder(tmp_path, cat=4, dog=4))
    assert str(check(Run(data=format_data(one=data, two=data))).workdir) == "runs/one_two"
