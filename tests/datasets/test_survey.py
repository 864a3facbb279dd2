"""Problems of data, and the messages of a run about them."""

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


def load_error(data, **options):
    """Return the error of loading data."""
    return complaint(lambda: load(data, **options))


def png(width, height):
    """Make a PNG with a stated size and without pixels: IHDR, an empty IDAT, IEND."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncate(content):
    return content[: len(content) // 2]


# Bad content, or a function that makes it from a valid file; and the error of the sample.
BAD = {
    "bits.png": (lambda content: content[:60] + bytes(20) + content[80:], "truncated or corrupt PNG"),
    "bomb.png": (png(60000, 60000), "image of 60000 x 60000 pixels, at most 100000000"),
    "cut.bmp": (truncate, "truncated or corrupt BMP"),
    "cut.gif": (truncate, "truncated or corrupt GIF"),
    "cut.jpg": (truncate, "truncated or corrupt JPEG"),
    "cut.png": (truncate, "truncated or corrupt PNG"),
    "cut.webp": (truncate, "truncated or corrupt WebP"),
    "empty.jpg": (b"", "empty file"),
    "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(60), "not a JPEG, PNG, GIF, BMP or WebP image"),
    "text.png": (b"this is a text that is saved as an image", "not a JPEG, PNG, GIF, BMP or WebP image"),
}


def survey_images(source, tasks, split, max_unreadable):
    """Survey labeled images."""
    return survey_labeled_data(source, {"image": modality()}, {"image": "image"}, tasks, split, max_unreadable)


def test_bad_files_are_left_out_and_listed(tmp_path):
    """Bad files are listed with their errors and are in no split."""
    class_folder(tmp_path, cat=8, dog=8)
    for name, (change, _) in BAD.items():
        path = tmp_path / "cat" / name
        path.write_bytes(change(picture(path).read_bytes()) if callable(change) else change)
    data = load(tmp_path, max_unreadable=0.5)
    assert data.table.errors == [(f"{tmp_path}/cat/{name}", error) for name, (_, error) in BAD.items()]
    assert sum(sizes(data).values()) == 16
    assert not any(data.table.split[data.table.error != ""])


def test_bombs_are_not_decompressed(tmp_path):
    """Only the header is read of an image of 144 million pixels in 20 kB."""
    class_folder(tmp_path, cat=8, dog=8)
    Image.new("1", (12000, 12000)).save(tmp_path / "cat" / "bomb.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = load(tmp_path)
    assert data.table.errors[0][1] == "image of 12000 x 12000 pixels, at most 100000000"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_max_pixels(tmp_path):
    """Images of 14 x 10 pixels are accepted at a limit of 140, larger ones are not."""
    class_folder(tmp_path, cat=8, dog=8)
    Image.new("RGB", (47, 3)).save(tmp_path / "cat" / "x.png")
    errors = load(tmp_path, image__max_pixels=140).table.errors
    assert errors == [(f"{tmp_path}/cat/x.png", "image of 47 x 3 pixels, at most 140")]


def test_too_many_bad_files(tmp_path):
    """Up to the maximum fraction, bad files are left out; above it, the run ends with the list of files."""
    class_folder(tmp_path, cat=8, dog=8)
    for number in range(4):
        (tmp_path / "cat" / f"x{number}.png").write_bytes(b"")
    assert len(load(tmp_path, max_unreadable=0.2).table.errors) == 4
    listed = "; ".join(f"{tmp_path}/cat/x{number}.png: empty file" for number in range(3))
    assert load_error(tmp_path, max_unreadable=0.19) == (
        f"4 of 20 samples cannot be read: {listed}; ... Expected: a fraction of at most 0.19. "
        "Repair or remove the files, or raise --max_unreadable."
    )


def test_nothing_can_be_read(tmp_path):
    """If no sample, or none of a class, can be read, a larger limit does not help."""
    for name in ("cat/a.png", "dog/b.png"):
        picture(tmp_path / name).write_bytes(b"")
    assert load_error(tmp_path, max_unreadable=1.0).endswith(
        "Expected: a fraction of at most 1.0. Repair or remove the files."
    )
    for name in ("cat/c.png", "cat/d.png"):
        picture(tmp_path / name, len(name))
    assert load_error(tmp_path, max_unreadable=1.0) == (
        "No sample of a class can be read: dog. Repair the files of the class, or leave the class out."
    )


def test_missing_files_of_a_table(tmp_path):
    """Missing files are listed as unreadable; if the folder is wrong, the message shows the paths."""
    lines = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(12)]
    path = table(tmp_path, "\n".join(["path,label", *lines]))
    path.write_text(path.read_text() + "\ngone.png,cat")
    assert load(path).table.errors == [(f"{tmp_path}/gone.png", "No such file or directory")]
    path.write_text("path,label\nfolder/a.png,cat\nfolder/b\0.png,dog")
    gone = f"{tmp_path}/folder/a.png: No such file or directory; {tmp_path}/folder/b\0.png: embedded null byte"
    assert load_error(path).startswith(f"2 of 2 samples cannot be read: {gone}. Expected: ")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            {"cat": 3},
            "Classification needs at least two classes: cat. "
            "Add samples of a second class; the classes of a folder are its sub-folders.",
        ),
        (
            {"cat": 3, "dog": 1},
            "A class with one sample cannot be both trained and tested: dog. "
            "Add samples of the class, or leave it out.",
        ),
    ],
)
def test_too_few_classes_or_samples(tmp_path, counts, message):
    """Two classes and two samples per class are needed."""
    assert load_error(class_folder(tmp_path, **counts)) == message


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "path,label,split\na.png,x,train\nb.png,y,train\nc.png,x,test\nd.png,z,test\n",
            {},
            "A class of the held-out data has no training sample: z. "
            "Add training samples of the class, or leave the class out.",
        ),
        (
            "path,label,split\na.png,x,test\nb.png,y,test\n",
            {},
            "The data has no training split: test. "
            "Add a training split to the data, or remove its splits so that they are made.",
        ),
        ("path,label\na.png,x\nb.png,\n", {}, "A sample has no label: {}/b.png. Label it or leave it out."),
        (
            "path,label\na.png,x\nb.png,x;y\n",
            {},
            "A sample has several labels: {}/b.png (x, y). Expected: one label. Use --heads=tag().",
        ),
        ("path,label\na.png,\nb.png,\n", {"heads": "tag()"}, "No sample has a label: column label."),
        (
            "path,label,ripe\na.png,x,yes\n",
            {"heads": "classify(column='rip')"},
            "The data has no such column: rip. Expected: file, image, label, ripe. Did you mean ripe?",
        ),
        (
            "path,label,group\na.png,x,1\nb.png,x,1\nc.png,y,2\nd.png,y,2\n",
            {},
            "The test split has no samples: data. "
            "Add samples that are not copies or of one group, or give the data a test split.",
        ),
    ],
)
def test_unusable_tables(tmp_path, text, options, message):
    """The message names the class, column or sample."""
    assert load_error(table(tmp_path, text), **options) == message.format(tmp_path)


def test_no_samples(tmp_path):
    """An IDX file may have no samples."""
    assert load_error(idx_folder(tmp_path / "digits", labels=())).startswith("The data has no samples: digits.")


def test_labeled_data_for_a_trained_model(tmp_path):
    """All data or one split is selected; unknown classes and too many bad files are refused."""
    tasks = {
        "label": TASKS.build(Spec("classify"), load(class_folder(tmp_path / "model", cat=4, dog=4)).labels["label"])
    }
    ready = tmp_path / "ready"
    class_folder(ready / "train", cat=2, cow=2)
    class_folder(ready / "test", cat=1, dog=2)

    def survey(split="", max_unreadable=0.1):
        return survey_images(SOURCES.build(infer_source(str(ready))), tasks, split, max_unreadable)

    selected = survey("test")
    assert (selected.size("test"), set(selected.columns["label"][selected.split == "test"])) == (3, {"cat", "dog"})
    assert complaint(survey) == "The model does not know a label of the data: cow. Expected: cat, dog."
    assert complaint(survey, "val") == "The data has no such split: val. Expected: train, test."
    for path in (ready / "test").rglob("*.png"):
        path.write_bytes(b"")
    assert complaint(survey, "test", 0.5) == "No sample of the split can be read: test."
    assert complaint(survey, "train").endswith("Repair or remove the files, or raise --max_unreadable.")


@pytest.mark.parametrize(
    ("label", "message"), [("", "A sample has no label: "), ("cat|dog", "A sample has several labels: ")]
)
def test_evaluation_needs_one_label_per_sample(tmp_path, label, message):
    """`evaluate` refuses the same samples as `train`."""
    tasks = {
        "label": TASKS.build(Spec("classify"), load(class_folder(tmp_path / "model", cat=4, dog=4)).labels["label"])
    }
    images = sorted((tmp_path / "model").rglob("*.png"))
    rows = [f"{path},{label if row == 1 else 'cat'}" for row, path in enumerate(images)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    source = SOURCES.build(infer_source(f"table(path='{tmp_path / 't.csv'}', separator='|')"))
    assert complaint(lambda: survey_images(source, tasks, "", 0.1)).startswith(message)
