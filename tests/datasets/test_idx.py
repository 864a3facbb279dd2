"""IDX files, the format of MNIST, and the real data sets of packages."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.assets import fetch_asset
from tests.helpers.small_data import complaint, idx_file, idx_folder
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.types.components import SOURCES


def source(path="", **options):
    return SOURCES.build(Spec("idx", (), options | ({"path": str(path)} if path else {})))


def samples(source, part):
    return list(source.read(part).as_numpy_iterator())


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_images_and_labels(tmp_path, suffix):
    """Images are uint8 (height, width, 1), gzipped or not; labels are in the order of their numbers."""
    data = source(idx_folder(tmp_path / "digits", labels=(10, 2, 0, 1), ending=suffix))
    assert (data.name, data.labels, data.paths) == ("digits", ("0", "1", "2", "10"), ())
    assert data.sizes == {"train": 12, "test": 2}
    rows = samples(data, "train")
    assert [row["label"] for row in rows] == [b"10", b"2", b"0", b"1"] * 3
    assert [row["file"] for row in rows][:2] == [b"train/0", b"train/1"]
    for position, row in enumerate(rows):
        assert row["image"].dtype == np.uint8
        assert np.array_equal(row["image"], np.full((4, 5, 1), position))


def test_file_names_with_a_dot(tmp_path):
    """Some copies of MNIST write train-images.idx3-ubyte."""
    for path in idx_folder(tmp_path).iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert source(tmp_path).sizes == {"train": 12, "test": 2}


def test_classes_and_limit(tmp_path):
    """Class names keep their order, used or not; the limit takes the first samples."""
    folder = idx_folder(tmp_path, labels=(1, 0))
    data = source(folder, classes=("zebra", "ant", "unused"), limit=3)
    assert data.labels == ("zebra", "ant", "unused")
    assert [row["label"] for row in samples(data, "train")] == [b"ant", b"zebra", b"ant"]
    assert complaint(lambda: source(folder, classes=("zebra",))) == "A class number has no name: 1. Expected: zebra."
    assert complaint(lambda: source(folder, limit=-1)).startswith("limit of idx() is negative: -1. ")


def test_bad_files(tmp_path):
    """Truncated, missing and other files are refused by name."""
    folder = idx_folder(tmp_path, ending=".gz")
    images, labels = (folder / f"train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    content = images.read_bytes()
    images.write_bytes(content[:-20])
    assert complaint(source, folder).startswith(f"Cannot read the IDX file: {images} (Compressed file ended")
    images.write_bytes(content[:20] + bytes(byte ^ 0xFF for byte in content[20:30]) + content[30:])
    assert complaint(source, folder).startswith(f"Cannot read the IDX file: {images} (Error -3 while decompress")
    images.write_bytes(b"no gzip")
    assert complaint(source, folder).startswith(f"Cannot read the IDX file: {images} (Not a gzipped file")
    images.unlink()
    assert complaint(source, folder) == (
        f"An IDX file is missing: {folder}/train-images-idx3-ubyte. "
        "Expected: train-images-idx3-ubyte or train-images-idx3-ubyte.gz."
    )
    plain = idx_file(folder / "train-images-idx3-ubyte", np.zeros((12, 4, 5), np.uint8))
    plain.write_bytes(plain.read_bytes()[:-1])
    message = f"The length of the IDX file differs from its header: {plain}. Expected: (12, 4, 5) bytes."
    assert complaint(source, folder) == message
    idx_file(plain, np.zeros((12, 4), np.uint8))
    assert complaint(source, folder) == f"Not an IDX file of bytes: {plain}. Expected: magic number 2051."
    idx_file(plain, np.zeros((11, 4, 5), np.uint8))
    assert complaint(source, folder) == f"Numbers of images and labels differ: {folder}: 11, 12."
    labels.unlink()
    assert complaint(source, folder).startswith("An IDX file is missing: ")


def test_path_or_package(tmp_path):
    """The data is either in a path or in a package."""
    assert complaint(source).startswith("idx() needs either a path or a package: path='', package=''.")
    assert complaint(lambda: source(tmp_path, package="mnist")).startswith("idx() needs either a path or a package: ")
    message = complaint(lambda: source(package="mnits"))
    assert message.startswith("Unknown package of weights or data: mnits. Expected: ")
    assert message.endswith("Did you mean mnist?")


@pytest.mark.parametrize(
    ("package", "first", "count"),
    [("mnist", ["5", "0", "4", "1", "9"], 6742), ("fashion-mnist", ["Ankle boot", "T-shirt/top", "T-shirt/top"], 6000)],
)
def test_the_real_data_sets(package, first, count):
    """First labels and class sizes are those published (LeCun 1998; Xiao 2017, arXiv 1708.07747)."""
    fetch_asset(package)
    data = source(package=package)
    assert data.sizes == {"train": 60000, "test": 10000}
    (batch,) = data.read("train").batch(60000).as_numpy_iterator()
    labels = [label.decode() for label in batch["label"]]
    assert labels[: len(first)] == first
    assert len(data.labels) == 10
    assert labels.count(data.labels[1]) == count
    assert np.mean(batch["image"]) / 255 == pytest.approx({"mnist": 0.1307, "fashion-mnist": 0.2860}[package], abs=1e-4)


def test_stamps():
    """The source has every category of the real package, no mirrored copies, and image files only."""
    fetch_asset("tux-stamps")
    data = SOURCES.build(Spec("tux_stamps"))
    rows = samples(data, "all")
    labels = [row["label"].decode() for row in rows]
    assert len(rows) > 700
    assert {"animals", "food", "vehicles", "plants"} <= set(labels)
    assert len(set(labels)) >= 13
    assert min(map(labels.count, set(labels))) >= 8
    assert not any(b"_mirror" in row["file"] for row in rows)
    assert Image.open(rows[0]["image"].decode()).size[0] > 0
    assert {row["group"] for row in rows} == {b""}


def test_stamps_by_folder():
    """The group is the folder of a series; if no category has enough samples, the message gives the largest number."""
    fetch_asset("tux-stamps")
    rows = samples(SOURCES.build(parse_spec("tux_stamps(group='folder', min_samples=50)")), "all")
    assert all(
        row["image"].decode() == f"{row['group'].decode()}/{row['image'].decode().rpartition('/')[2]}" for row in rows
    )
    message = complaint(SOURCES.build, parse_spec("tux_stamps(min_samples=9999)"))
    assert message.startswith("No category of tux_stamps() has so many images: min_samples=9999 (")
    assert ". Expected: at most " in message


def test_transforms(tmp_path):
    """Transforms of a bright pixel and of a corner, computed by hand, are applied in order."""
    pixels = np.zeros((2, 5, 5), np.uint8)
    pixels[0, 2, 2], pixels[1, 0, 0] = 90, 90
    for part in ("train", "t10k"):
        idx_file(tmp_path / f"{part}-images-idx3-ubyte", pixels)
        idx_file(tmp_path / f"{part}-labels-idx1-ubyte", np.array([0, 1], np.uint8))

    def transformed(*transform):
        return [sample["image"][..., 0].tolist() for sample in samples(source(tmp_path, transform=transform), "train")]

    thick, corner = transformed("thick")
    assert thick == [[0] * 5, *[[0, 90, 90, 90, 0]] * 3, [0] * 5]
    assert corner == [[90, 90, 0, 0, 0]] * 2 + [[0] * 5] * 3
    blurred, corner = transformed("blurred")
    assert blurred == [[0] * 5, *[[0, 10, 10, 10, 0]] * 3, [0] * 5]
    assert [row[:3] for row in corner[:3]] == [[40, 20, 0], [20, 10, 0], [0, 0, 0]]  # the edge is repeated
    assert transformed("thick", "inverted")[0][1] == [255, 165, 165, 165, 255]
    assert source(tmp_path, transform=("thick", "blurred")).name == f"{tmp_path.name}_thick_blurred"
    assert complaint(lambda: source(tmp_path, transform=("thik",))) == (
        "idx() has no such transform: thik. Expected: inverted, blurred, thick. Did you mean thick?"
    )
