"""What a person's data may have wrong, and what the run then says."""

import resource
import struct
import zlib

import pytest
from PIL import Image

from tests.helpers.small_data import class_folder, complaint, idx_folder, load, modality, picture, sizes, table
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.labeled import survey_labeled_data
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.types.components import SOURCES, TASKS


def said(data, **options):
    """What is said about bad data."""
    return complaint(lambda: load(data, **options))


def png(width, height):
    """A PNG that states a size and holds no pixel: IHDR, an empty IDAT, IEND."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def half(whole):
    return whole[: len(whole) // 2]


# What becomes of a whole file, or stands in its place; and what is said about it.
BAD = {
    "bits.png": (lambda whole: whole[:60] + bytes(20) + whole[80:], "truncated or corrupt PNG"),
    "bomb.png": (png(60000, 60000), "a picture of 60000 x 60000 pixels, at most 100000000"),
    "cut.bmp": (half, "truncated or corrupt BMP"),
    "cut.gif": (half, "truncated or corrupt GIF"),
    "cut.jpg": (half, "truncated or corrupt JPEG"),
    "cut.png": (half, "truncated or corrupt PNG"),
    "cut.webp": (half, "truncated or corrupt WebP"),
    "empty.jpg": (b"", "empty file"),
    "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(60), "not a JPEG, PNG, GIF, BMP or WebP picture"),
    "text.png": (b"this is no picture but a text, saved as one", "not a JPEG, PNG, GIF, BMP or WebP picture"),
}


def of_pictures(source, *rest):
    """What `opened` finds of the column `image`."""
    return survey_labeled_data(source, {"image": modality()}, {"image": "image"}, *rest)


def test_bad_files_are_skipped_and_listed(tmp_path):
    """The other files are used; these stand in the list, each with why, and in no split."""
    class_folder(tmp_path, cat=8, dog=8)
    for name, (change, _) in BAD.items():
        path = tmp_path / "cat" / name
        path.write_bytes(change(picture(path).read_bytes()) if callable(change) else change)
    data = load(tmp_path, max_unreadable=0.5)
    assert data.table.errors == [(f"{tmp_path}/cat/{name}", why) for name, (_, why) in BAD.items()]
    assert sum(sizes(data).values()) == 16
    assert not any(data.table.split[data.table.error != ""])


def test_bombs_are_not_decompressed(tmp_path):
    """A real picture of 144 million pixels in 20 kB would take half a gigabyte; only its header is read."""
    class_folder(tmp_path, cat=8, dog=8)
    Image.new("1", (12000, 12000)).save(tmp_path / "cat" / "bomb.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = load(tmp_path)
    assert data.table.errors[0][1] == "a picture of 12000 x 12000 pixels, at most 100000000"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_the_limit_of_pixels(tmp_path):
    """The small ones are of 14 x 10 pixels, just as many as allowed here."""
    class_folder(tmp_path, cat=8, dog=8)
    Image.new("RGB", (47, 3)).save(tmp_path / "cat" / "x.png")
    bad = load(tmp_path, image__max_pixels=140).table.errors
    assert bad == [(f"{tmp_path}/cat/x.png", "a picture of 47 x 3 pixels, at most 140")]


def test_too_many_bad_files(tmp_path):
    """Up to the stated share they are skipped; above it the run fails, and says which they are and what to do."""
    class_folder(tmp_path, cat=8, dog=8)
    for number in range(4):
        (tmp_path / "cat" / f"x{number}.png").write_bytes(b"")
    assert len(load(tmp_path, max_unreadable=0.2).table.errors) == 4
    listed = "; ".join(f"{tmp_path}/cat/x{number}.png: empty file" for number in range(3))
    assert said(tmp_path, max_unreadable=0.19) == (
        f"4 of 20 samples cannot be read; received: {listed}, ...; allowed: a share of 0.19; "
        "mend or remove them, or raise --max_unreadable"
    )


def test_nothing_can_be_read(tmp_path):
    """Raising the limit would not help."""
    for name in ("cat/a.png", "dog/b.png"):
        picture(tmp_path / name).write_bytes(b"")
    assert said(tmp_path, max_unreadable=1.0).endswith("allowed: a share of 1.0; mend or remove them")
    for name in ("cat/c.png", "cat/d.png"):
        picture(tmp_path / name, len(name))
    assert said(tmp_path, max_unreadable=1.0) == (
        "no sample of a class can be read; received: dog; mend its files, or leave it out"
    )


def test_files_of_a_table_that_are_not_there(tmp_path):
    """Listed like unreadable ones; with a wrong folder all of them are, and the paths show it."""
    lines = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(12)]
    path = table(tmp_path, "\n".join(["path,label", *lines]))
    path.write_text(path.read_text() + "\ngone.png,cat")
    assert load(path).table.errors == [(f"{tmp_path}/gone.png", "No such file or directory")]
    path.write_text("path,label\nfolder/a.png,cat\nfolder/b\0.png,dog")
    gone = f"{tmp_path}/folder/a.png: No such file or directory; {tmp_path}/folder/b\0.png: embedded null byte"
    assert said(path).startswith(f"2 of 2 samples cannot be read; received: {gone}; allowed")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            {"cat": 3},
            "one class only; received: cat; "
            "classification wants at least two; the classes of a folder are its sub-folders",
        ),
        (
            {"cat": 3, "dog": 1},
            "a class with one sample, which cannot be both learned and tested; received: dog; "
            "add samples to it or leave it out",
        ),
    ],
)
def test_too_few_classes_or_samples(tmp_path, counts, message):
    """One class cannot be told apart; one sample cannot be on both sides."""
    assert said(class_folder(tmp_path, **counts)) == message


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "path,label,split\na.png,x,train\nb.png,y,train\nc.png,x,test\nd.png,z,test\n",
            {},
            "a class of the held-out data never occurs in training; received: z; "
            "give it training samples, or leave it out",
        ),
        (
            "path,label,split\na.png,x,test\nb.png,y,test\n",
            {},
            "the data has no training part; received: test; give it a split train, or none, so that one is made",
        ),
        ("path,label\na.png,x\nb.png,\n", {}, "a sample without a label; received: {}/b.png; label it or leave it out"),
        (
            "path,label\na.png,x\nb.png,x;y\n",
            {},
            "a sample with several labels; received: {}/b.png (x, y); allowed: one label a sample; use --heads=tag()",
        ),
        ("path,label\na.png,\nb.png,\n", {"heads": "tag()"}, "no sample has a label; received: column label"),
        (
            "path,label,ripe\na.png,x,yes\n",
            {"heads": "classify(column='rip')"},
            "the data has no such column; received: rip; allowed: file, image, label, ripe; did you mean ripe?",
        ),
        (
            "path,label,group\na.png,x,1\nb.png,x,1\nc.png,y,2\nd.png,y,2\n",
            {},
            "no sample is left to test on; received: data; "
            "give it a test split of its own, or more samples that are not copies or of one group",
        ),
    ],
)
def test_tables_that_cannot_be_learned_from(tmp_path, text, options, message):
    """Each says which class, column or sample it is."""
    assert said(table(tmp_path, text), **options) == message.format(tmp_path)


def test_no_samples(tmp_path):
    """A file of MNIST's format may hold none."""
    assert said(idx_folder(tmp_path / "digits", labels=())).startswith("the data has no samples; received: digits")


def test_labelled_data_for_a_model_that_exists(tmp_path):
    """Everything, or one part; a class that the model does not know; too many bad files."""
    tasks = {
        "label": TASKS.build(Spec("classify"), load(class_folder(tmp_path / "model", cat=4, dog=4)).labels["label"])
    }
    ready = tmp_path / "ready"
    class_folder(ready / "train", cat=2, cow=2)
    class_folder(ready / "test", cat=1, dog=2)

    def survey(part="", max_bad=0.1):
        return of_pictures(SOURCES.build(infer_source(str(ready))), tasks, part, max_bad)

    found = survey("test")
    assert (found.size("test"), set(found.columns["label"][found.split == "test"])) == (3, {"cat", "dog"})
    said = complaint(survey)
    assert said == "a label that the model does not know; received: cow; allowed: cat, dog"
    assert complaint(survey, "val") == "the data has no such split; received: val; allowed: train, test"
    for path in (ready / "test").rglob("*.png"):
        path.write_bytes(b"")
    assert complaint(survey, "test", 0.5) == "no sample of this split can be read; received: test"
    assert complaint(survey, "train").endswith("mend or remove them, or raise --max_unreadable")


@pytest.mark.parametrize(("label", "message"), [("", "a sample without a label"), ("cat|dog", "a sample with several")])
def test_classification_is_evaluated_on_one_label_a_sample(tmp_path, label, message):
    """What training refuses, `evaluate` refuses too, where it would score nonsense."""
    tasks = {
        "label": TASKS.build(Spec("classify"), load(class_folder(tmp_path / "model", cat=4, dog=4)).labels["label"])
    }
    pictures = sorted((tmp_path / "model").rglob("*.png"))
    rows = [f"{path},{label if row == 1 else 'cat'}" for row, path in enumerate(pictures)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    table = SOURCES.build(infer_source(f"table(path='{tmp_path / 't.csv'}', separator='|')"))
    assert complaint(lambda: of_pictures(table, tasks, "", 0.1)).startswith(message)
