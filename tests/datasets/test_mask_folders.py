"""Images and masks in folders: values, palettes, colors, black and white, and masks of other sizes."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.annotated_data import build_source, read_masks, write_image, write_mask
from tests.helpers.small_data import class_folder, complaint
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.datasets.sources.mask_files import read_color_map

pytestmark = pytest.mark.usefixtures("empty_cache")

VALUES = np.zeros((10, 20), np.uint8)
VALUES[2:5, 3:9] = 1
VALUES[6:8, 3:9] = 2
WITH_IGNORED = VALUES.copy()
WITH_IGNORED[9] = 255
COLORS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 7), 255: (9, 9, 9)}
COLOR_MAP = "sky 0 0 0\nroad 128 0 0\nbig tree 0 128 7\n"


def to_colors(array):
    return np.array([COLORS[value] for value in array.ravel().tolist()], np.uint8).reshape(*array.shape, 3)


def masks(tmp_path, array, mode="L", text="", **options):
    root = tmp_path / "data"
    write_image(root / "images" / "a.jpg")
    write_mask(root / "masks" / "a.png", array, mode, options.pop("palette", None))
    if text:
        (root / "labelmap.txt").write_text(text)
    return build_source("masks", root, **options)


def test_gray_values_and_palettes_are_used_unchanged(tmp_path, empty_cache):
    """The value 255 is ignored; class names are those of a file, else numbers; no mask is written."""
    source = masks(tmp_path, WITH_IGNORED)
    assert (source.name, source.labels, source.paths, source.sizes) == (
        "data",
        ("0", "1", "2"),
        ("image", "mask"),
        {"all": 1},
    )
    np.testing.assert_array_equal(read_masks(source)["a.jpg"], WITH_IGNORED)
    with_palette = masks(tmp_path, WITH_IGNORED, "P", "sky\nroad\ntree\n", palette=[5, 5, 5] * 256)
    assert with_palette.labels == ("sky", "road", "tree")
    np.testing.assert_array_equal(read_masks(with_palette)["a.jpg"], WITH_IGNORED)
    assert source.warnings == with_palette.warnings == ()
    assert not empty_cache.exists()


def test_colors(tmp_path, empty_cache):
    """Colors become class indices; other colors are ignored and reported. Masks are written once."""
    source = masks(tmp_path, to_colors(WITH_IGNORED), "RGB", COLOR_MAP)
    assert source.labels == ("sky", "road", "big tree")
    np.testing.assert_array_equal(read_masks(source)["a.jpg"], WITH_IGNORED)
    assert source.warnings == (f"masks with colors of no class, ignored there: 1 ({tmp_path}/data/masks/a.png)",)
    written = {path: path.stat().st_mtime_ns for path in empty_cache.rglob("*.png")}
    build_source("masks", tmp_path / "data")
    assert {path: path.stat().st_mtime_ns for path in empty_cache.rglob("*.png")} == written
    # Other classes give other masks.
    other = masks(tmp_path, to_colors(WITH_IGNORED), "RGB", "\n".join(reversed(COLOR_MAP.splitlines())))
    np.testing.assert_array_equal(
        read_masks(other)["a.jpg"], np.array([2, 1, 0])[VALUES] * (WITH_IGNORED < 255) + 255 * (WITH_IGNORED == 255)
    )


def test_colors_of_a_palette(tmp_path):
    """If the colors of a palette are those of the color map in another order, the colors count, not the indices."""
    palette = [*COLORS[2], *COLORS[0], *COLORS[1]]
    source = masks(tmp_path, (VALUES + 1) % 3, "P", COLOR_MAP, palette=palette)
    np.testing.assert_array_equal(read_masks(source)["a.jpg"], VALUES)
    assert source.warnings == ()


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (np.stack([WITH_IGNORED] * 3, -1), "RGB"),
        (WITH_IGNORED, "I;16"),
        (np.stack([WITH_IGNORED, WITH_IGNORED], -1), "LA"),
    ],
)
def test_other_modes_of_values(tmp_path, array, mode):
    """Values may have three channels, 16 bits or transparency."""
    source = masks(tmp_path, array, mode)
    np.testing.assert_array_equal(read_masks(source)["a.jpg"], WITH_IGNORED)
    assert source.labels == ("0", "1", "2")


@pytest.mark.parametrize(("bits", "max_value"), [(1, 1), (2, 2), (4, 2)])
def test_values_of_few_bits(tmp_path, bits, max_value):
    """Values of PNG files of 1, 2 and 4 bits, which readers scale to 0..255, are restored."""
    import struct
    import zlib

    array = np.minimum(VALUES, max_value)
    digits = ["".join(f"{value:0{bits}b}" for value in row) for row in array]
    rows = b"".join(b"\0" + int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8)) for row in digits)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 20, 10, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    content = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    write_image(tmp_path / "data" / "images" / "a.jpg")
    (tmp_path / "data" / "masks").mkdir()
    (tmp_path / "data" / "masks" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    np.testing.assert_array_equal(read_masks(build_source("masks", tmp_path / "data"))["a.jpg"], array)


@pytest.mark.parametrize("text", ["", "nothing\nroad\n"])
def test_black_and_white(tmp_path, text):
    """With two classes, 255 is the foreground, which is reported; with three classes, it is ignored."""
    white = np.where(VALUES == 1, 255, 0)
    source = masks(tmp_path, white, text=text)
    assert source.labels == (tuple(text.split()) or ("background", "foreground"))
    np.testing.assert_array_equal(read_masks(source)["a.jpg"], VALUES == 1)
    assert source.warnings == (f"black-and-white masks, white read as {source.labels[1]}: 1 (all)",)
    np.testing.assert_array_equal(read_masks(masks(tmp_path, white, text="a\nb\nc\n"))["a.jpg"], white)


def test_values_of_no_class(tmp_path):
    """They are ignored there, counted and reported."""
    source = masks(tmp_path, VALUES, text="sky\nroad\n")
    np.testing.assert_array_equal(read_masks(source)["a.jpg"], np.where(VALUES == 2, 255, VALUES))
    assert source.warnings == (f"masks with values of no class, ignored there: 1 ({tmp_path}/data/masks/a.png)",)


def test_sizes(tmp_path):
    """A resized mask stays, one of another aspect ratio is left out, one of the stored image is rotated."""
    root = tmp_path / "data"
    for name, size, orientation in (("half", (10, 5), 1), ("other", (10, 10), 1), ("rotated", (20, 10), 8)):
        write_image(root / "images" / f"{name}.jpg", orientation=orientation)
        write_mask(root / "masks" / f"{name}.png", np.arange(size[0] * size[1]).reshape(size[::-1]) % 3)
    write_mask(root / "masks" / "gone.png", VALUES)
    write_image(root / "images" / "broken.jpg")
    (root / "masks" / "broken.png").write_bytes(b"\x89PNG")
    write_image(root / "images" / "alone.jpg")
    masks = read_masks(build_source("masks", root))
    assert set(masks) == {"half.jpg", "rotated.jpg"}
    np.testing.assert_array_equal(masks["rotated.jpg"], np.rot90(np.arange(200).reshape(10, 20) % 3))
    assert build_source("masks", root).warnings == (
        f"images without a mask, left out: 1 ({root}/images/alone.jpg)",
        f"masks without an image, left out: 1 ({root}/masks/gone.png)",
        f"images with an unreadable mask, left out: 1 ({root}/images/broken.jpg)",
        f"masks of another size than their image, resized: 1 ({root}/masks/half.png)",
        f"images whose aspect ratio differs from their mask, left out: 1 ({root}/images/other.jpg)",
        f"masks without the EXIF rotation of their image, rotated: 1 ({root}/masks/rotated.png)",
    )


def test_names_and_splits(tmp_path):
    """Names may have suffixes, masks may lie next to images, splits above or below, folders may have other names."""
    for name in ("images/train/a", "images/val/deep/b"):
        write_image(tmp_path / "below" / f"{name}.jpg")
        write_mask(tmp_path / "below" / f"{name.replace('images', 'masks')}_mask.png", VALUES)
    assert build_source("masks", tmp_path / "below").sizes == {"train": 1, "val": 1}
    for split in ("train", "test"):
        write_image(tmp_path / "above" / split / "photos" / "a.png")
        write_mask(tmp_path / "above" / split / "truth" / "a_L.png", VALUES)
    assert build_source("masks", tmp_path / "above", images="photos", masks="truth").sizes == {"train": 1, "test": 1}
    for name in ("a", "b"):
        write_image(tmp_path / "same" / f"{name}.png")
        write_mask(tmp_path / "same" / f"{name}_mask.png", VALUES)
    masks = read_masks(build_source("masks", tmp_path / "same"))
    assert list(masks) == ["a.png", "b.png"]
    np.testing.assert_array_equal(masks["b.png"], VALUES)


def test_color_maps(tmp_path):
    """A color map has several notations, and may be another file."""
    path = tmp_path / "my colors.txt"
    path.write_text("\ufeff# a comment\nsky 0 0 0\n128,0,0 road\n\nbig  tree\t0 128 7 # green\nlast:1,2,3:parts:x\n")
    expected = {"sky": (0, 0, 0), "road": (128, 0, 0), "big tree": (0, 128, 7), "last": (1, 2, 3)}
    assert read_color_map(tmp_path, str(path)) == expected
    assert read_color_map(tmp_path) == {}
    (tmp_path / "classes.txt").write_text("route 66\nroad works\n")
    assert read_color_map(tmp_path) == {"route 66": None, "road works": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky 0 0 0\nsky 1 1 1\n", "A class or color occurs twice: {path}, line 2: sky 1 1 1"),
        ("sky 0 0 0\nsea 0 0 0\n", "A class or color occurs twice: {path}, line 2: sea 0 0 0"),
        ("sky 0 0 300\n", "Not a class with a color: {path}, line 1: sky 0 0 300. Expected: "),
        ("sky:0,0\n", "Not a class with a color: {path}, line 1: sky:0,0. Expected: "),
        ("sky 0 0 0\nroad\n", "Only some classes have a color: {path}"),
        ("\n".join(f"class {number}" for number in range(256)), "Too many classes for masks: {path}: 256. "),
    ],
)
def test_invalid_color_maps(tmp_path, text, message):
    """The message is one line and names the file and the line."""
    path = tmp_path / "labelmap.txt"
    path.write_text(text)
    assert complaint(read_color_map, tmp_path).startswith(message.format(path=path))


def test_unusable_folders(tmp_path):
    """Unknown colors, JPEG masks, photographs as masks, and missing masks are refused."""
    message = complaint(masks, tmp_path, to_colors(VALUES), "RGB")
    assert message.startswith(
        "Masks have colors, but no file assigns them to classes: RGB. Write a labelmap.txt with one line "
    )
    noise = np.arange(200).reshape(10, 20)
    assert complaint(masks, tmp_path, noise).startswith(
        "Masks have too many values for classes: 200. Expected: at most 64."
    )
    root = tmp_path / "data"
    Image.fromarray(VALUES).save(root / "masks" / "a.jpg")
    (root / "masks" / "a.png").unlink()
    assert complaint(build_source, "masks", root) == (
        f"JPEG compression changes the values of masks: {root}/masks/a.jpg. Expected: masks as PNG."
    )
    plain = class_folder(tmp_path / "plain", cat=1)
    assert complaint(build_source, "masks", plain).startswith(f"The folder has no image with a mask: {plain}. ")
    message = complaint(lambda: build_source("masks", root, colors="gone.txt"))
    assert message.startswith("Cannot read the class list of the masks: gone.txt")
    assert complaint(build_source, "masks", tmp_path / "gone") == f"No such folder: {tmp_path / 'gone'}."


def test_format_is_inferred(tmp_path):
    """The folders images and masks identify the format, with or without splits."""
    masks(tmp_path, VALUES)
    assert infer_source(str(tmp_path / "data")).name == "masks"
    write_image(tmp_path / "split" / "train" / "images" / "a.png")
    write_mask(tmp_path / "split" / "train" / "masks" / "a.png", VALUES)
    assert infer_source(str(tmp_path / "split")).name == "masks"
