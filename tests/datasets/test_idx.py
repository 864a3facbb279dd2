"""MNIST's format, and the real data that comes as packages."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.assets import asset
from tests.helpers.small_data import complaint, idx_file, idx_folder
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.types.components import SOURCES


def source(path="", **options):
    return SOURCES.build(Spec("idx", (), options | ({"path": str(path)} if path else {})))


def samples(source, part):
    return list(source.read(part).as_numpy_iterator())


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_reads_pictures_and_labels(tmp_path, ending):
    """Gzipped or not: uint8 (height, width, 1), labels in the order of their numbers."""
    found = source(idx_folder(tmp_path / "digits", labels=(10, 2, 0, 1), ending=ending))
    assert (found.name, found.labels, found.paths) == ("digits", ("0", "1", "2", "10"), ())
    assert found.sizes == {"train": 12, "test": 2}
    rows = samples(found, "train")
    assert [row["label"] for row in rows] == [b"10", b"2", b"0", b"1"] * 3
    assert [row["file"] for row in rows][:2] == [b"train/0", b"train/1"]
    for position, row in enumerate(rows):
        assert row["image"].dtype == np.uint8
        assert np.array_equal(row["image"], np.full((4, 5, 1), position))


def test_names_of_files_with_a_dot(tmp_path):
    """Some copies of MNIST write train-images.idx3-ubyte."""
    for path in idx_folder(tmp_path).iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert source(tmp_path).sizes == {"train": 12, "test": 2}


def test_classes_and_limit(tmp_path):
    """Names keep the order in which they are given, used or not."""
    folder = idx_folder(tmp_path, labels=(1, 0))
    found = source(folder, classes=("zebra", "ant", "unused"), limit=3)
    assert found.labels == ("zebra", "ant", "unused")
    assert [row["label"] for row in samples(found, "train")] == [b"ant", b"zebra", b"ant"]
    assert complaint(lambda: source(folder, classes=("zebra",))) == "a class has no name; received: 1; allowed: zebra"
    assert complaint(lambda: source(folder, limit=-1)).startswith("limit of idx is negative; received: -1")


def test_bad_files(tmp_path):
    """Cut off, of another format, missing: each named."""
    folder = idx_folder(tmp_path, ending=".gz")
    images, labels = (folder / f"train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    whole = images.read_bytes()
    images.write_bytes(whole[:-20])
    assert complaint(source, folder).startswith(f"cannot read an idx file; received: {images} (Compressed file ended")
    images.write_bytes(whole[:20] + bytes(byte ^ 0xFF for byte in whole[20:30]) + whole[30:])
    assert complaint(source, folder).startswith(
        f"cannot read an idx file; received: {images} (Error -3 while decompress"
    )
    images.write_bytes(b"no gzip")
    assert complaint(source, folder).startswith(f"cannot read an idx file; received: {images} (Not a gzipped file")
    images.unlink()
    assert complaint(source, folder) == (
        f"a file of MNIST's format is missing; received: {folder}/train-images-idx3-ubyte; "
        "allowed: train-images-idx3-ubyte or train-images-idx3-ubyte.gz"
    )
    plain = idx_file(folder / "train-images-idx3-ubyte", np.zeros((12, 4, 5), np.uint8))
    plain.write_bytes(plain.read_bytes()[:-1])
    said = f"an idx file of another length than it states; received: {plain}; allowed: (12, 4, 5) bytes"
    assert complaint(source, folder) == said
    idx_file(plain, np.zeros((12, 4), np.uint8))
    assert complaint(source, folder) == f"not an idx file of bytes; received: {plain}; allowed: magic number 2051"
    idx_file(plain, np.zeros((11, 4, 5), np.uint8))
    assert complaint(source, folder) == f"pictures and labels differ in number; received: {folder}: 11, 12"
    labels.unlink()
    assert complaint(source, folder).startswith("a file of MNIST's format is missing")


def test_path_or_package(tmp_path):
    """One of the two says where the data is."""
    assert complaint(source).startswith("idx wants either a path or a package; received: path='', package=''")
    assert complaint(lambda: source(tmp_path, package="mnist")).startswith("idx wants either a path or a package")
    said = complaint(lambda: source(package="mnits"))
    assert said.startswith("unknown package of weights or data; received: mnits; allowed: ")
    assert said.endswith("did you mean mnist?")


@pytest.mark.parametrize(
    ("package", "first", "count"),
    [("mnist", ["5", "0", "4", "1", "9"], 6742), ("fashion-mnist", ["Ankle boot", "T-shirt/top", "T-shirt/top"], 6000)],
)
def test_the_real_data_sets(package, first, count):
    """First labels and class sizes as published (LeCun 1998; Xiao 2017, arXiv 1708.07747)."""
    asset(package)
    found = source(package=package)
    assert found.sizes == {"train": 60000, "test": 10000}
    (batch,) = found.read("train").batch(60000).as_numpy_iterator()
    labels = [label.decode() for label in batch["label"]]
    assert labels[: len(first)] == first
    assert len(found.labels) == 10
    assert labels.count(found.labels[1]) == count
    assert np.mean(batch["image"]) / 255 == pytest.approx({"mnist": 0.1307, "fashion-mnist": 0.2860}[package], abs=1e-4)


def test_stamps():
    """Every category of the real package, no mirrored copies, and every file is a picture."""
    asset("tux-stamps")
    found = SOURCES.build(Spec("tux_stamps"))
    rows = samples(found, "all")
    labels = [row["label"].decode() for row in rows]
    assert len(rows) > 700
    assert {"animals", "food", "vehicles", "plants"} <= set(labels)
    assert len(set(labels)) >= 13
    assert min(map(labels.count, set(labels))) >= 8
    assert not any(b"_mirror" in row["file"] for row in rows)
    assert Image.open(rows[0]["image"].decode()).size[0] > 0
    assert {row["group"] for row in rows} == {b""}


def test_stamps_by_folder():
    """A group is the folder of a series; too few samples for any category say how many there are."""
    asset("tux-stamps")
    rows = samples(SOURCES.build(parse_spec("tux_stamps(group='folder', min_samples=50)")), "all")
    assert all(
        row["image"].decode() == f"{row['group'].decode()}/{row['image'].decode().rpartition('/')[2]}" for row in rows
    )
    said = complaint(SOURCES.build, parse_spec("tux_stamps(min_samples=9999)"))
    assert said.startswith("no category has so many pictures; received: 9999 (")
    assert "; allowed: up to " in said


def test_looks(tmp_path):
    """By hand, in the order in which they are said: one bright pixel, and a corner."""
    pixels = np.zeros((2, 5, 5), np.uint8)
    pixels[0, 2, 2], pixels[1, 0, 0] = 90, 90
    for part in ("train", "t10k"):
        idx_file(tmp_path / f"{part}-images-idx3-ubyte", pixels)
        idx_file(tmp_path / f"{part}-labels-idx1-ubyte", np.array([0, 1], np.uint8))

    def seen(*look):
        return [sample["image"][..., 0].tolist() for sample in samples(source(tmp_path, look=look), "train")]

    thick, corner = seen("thick")
    assert thick == [[0] * 5, *[[0, 90, 90, 90, 0]] * 3, [0] * 5]
    assert corner == [[90, 90, 0, 0, 0]] * 2 + [[0] * 5] * 3
    blurred, corner = seen("blurred")
    assert blurred == [[0] * 5, *[[0, 10, 10, 10, 0]] * 3, [0] * 5]
    assert [row[:3] for row in corner[:3]] == [[40, 20, 0], [20, 10, 0], [0, 0, 0]]  # its edge is repeated
    assert seen("thick", "inverted")[0][1] == [255, 165, 165, 165, 255]
    assert source(tmp_path, look=("thick", "blurred")).name == f"{tmp_path.name}_thick_blurred"
    assert complaint(lambda: source(tmp_path, look=("thik",))) == (
        "no such look of idx; received: thik; allowed: inverted, blurred, thick; did you mean thick?"
    )
