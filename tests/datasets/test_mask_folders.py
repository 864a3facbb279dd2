"""Pictures and masks in folders: values, palettes, colours, black and white, and masks that do not fit."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.annotated_data import mask_file, picture, source, values
from tests.helpers.small_data import class_folder, complaint
from tfx_finetune.core import assets
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.datasets.sources.mask_colors import read_color_map

VALUES = np.zeros((10, 20), np.uint8)
VALUES[2:5, 3:9] = 1
VALUES[6:8, 3:9] = 2
UNTOLD = VALUES.copy()
UNTOLD[9] = 255
COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 7), 255: (9, 9, 9)}
MAP = "sky 0 0 0\nroad 128 0 0\nbig tree 0 128 7\n"


@pytest.fixture(autouse=True)
def cache(tmp_path):
    assets.set_cache_dir(str(tmp_path / "cache"))
    yield tmp_path / "cache"
    assets.set_cache_dir("")


def coloured(array):
    return np.array([COLOURS[value] for value in array.ravel().tolist()], np.uint8).reshape(*array.shape, 3)


def masks(tmp_path, array, mode="L", text="", **options):
    root = tmp_path / "data"
    picture(root / "images" / "a.jpg")
    mask_file(root / "masks" / "a.png", array, mode, options.pop("palette", None))
    if text:
        (root / "labelmap.txt").write_text(text)
    return source("masks", root, **options)


def test_grey_values_and_palettes_stay_where_they_are(tmp_path, cache):
    """255 is untold; names are those of a file, else numbers; nothing is written."""
    found = masks(tmp_path, UNTOLD)
    assert (found.name, found.labels, found.paths, found.sizes) == (
        "data",
        ("0", "1", "2"),
        ("image", "mask"),
        {"all": 1},
    )
    np.testing.assert_array_equal(values(found)["a.jpg"], UNTOLD)
    palette = masks(tmp_path, UNTOLD, "P", "sky\nroad\ntree\n", palette=[5, 5, 5] * 256)
    assert palette.labels == ("sky", "road", "tree")
    np.testing.assert_array_equal(values(palette)["a.jpg"], UNTOLD)
    assert found.notes == palette.notes == ()
    assert not cache.exists()


def test_colours(tmp_path, cache):
    """Each is a class of the map, by its line; what is none is untold, and said. Written once."""
    found = masks(tmp_path, coloured(UNTOLD), "RGB", MAP)
    assert found.labels == ("sky", "road", "big tree")
    np.testing.assert_array_equal(values(found)["a.jpg"], UNTOLD)
    assert found.notes == (f"masks with colours of no class, untold there: 1 ({tmp_path}/data/masks/a.png)",)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")}
    source("masks", tmp_path / "data")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")} == written
    # Other classes, other masks.
    other = masks(tmp_path, coloured(UNTOLD), "RGB", "\n".join(reversed(MAP.splitlines())))
    np.testing.assert_array_equal(
        values(other)["a.jpg"], np.array([2, 1, 0])[VALUES] * (UNTOLD < 255) + 255 * (UNTOLD == 255)
    )


def test_colours_of_a_palette(tmp_path):
    """Where a palette's colours are those of the map in another order, they count, and its indices do not."""
    palette = [*COLOURS[2], *COLOURS[0], *COLOURS[1]]
    found = masks(tmp_path, (VALUES + 1) % 3, "P", MAP, palette=palette)
    np.testing.assert_array_equal(values(found)["a.jpg"], VALUES)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("array", "mode"),
    [(np.stack([UNTOLD] * 3, -1), "RGB"), (UNTOLD, "I;16"), (np.stack([UNTOLD, UNTOLD], -1), "LA")],
)
def test_other_files_of_values(tmp_path, array, mode):
    """Values in three channels, in sixteen bits, and with transparency are values all the same."""
    found = masks(tmp_path, array, mode)
    np.testing.assert_array_equal(values(found)["a.jpg"], UNTOLD)
    assert found.labels == ("0", "1", "2")


@pytest.mark.parametrize(("bits", "most"), [(1, 1), (2, 2), (4, 2)])
def test_values_of_few_bits(tmp_path, bits, most):
    """PNG files of one, two and four bits, which readers spread over the whole range."""
    import struct
    import zlib

    array = np.minimum(VALUES, most)
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
    picture(tmp_path / "data" / "images" / "a.jpg")
    (tmp_path / "data" / "masks").mkdir()
    (tmp_path / "data" / "masks" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    np.testing.assert_array_equal(values(source("masks", tmp_path / "data"))["a.jpg"], array)


@pytest.mark.parametrize("text", ["", "nothing\nroad\n"])
def test_black_and_white(tmp_path, text):
    """Masks of one thing are often 0 and 255: that is the thing, and said; among three classes 255 is untold."""
    white = np.where(VALUES == 1, 255, 0)
    found = masks(tmp_path, white, text=text)
    assert found.labels == (tuple(text.split()) or ("background", "foreground"))
    np.testing.assert_array_equal(values(found)["a.jpg"], VALUES == 1)
    assert found.notes == (f"masks in black and white, white taken for {found.labels[1]}: 1 (all)",)
    np.testing.assert_array_equal(values(masks(tmp_path, white, text="a\nb\nc\n"))["a.jpg"], white)


def test_values_of_no_class(tmp_path):
    """They are untold there, counted and said."""
    found = masks(tmp_path, VALUES, text="sky\nroad\n")
    np.testing.assert_array_equal(values(found)["a.jpg"], np.where(VALUES == 2, 255, VALUES))
    assert found.notes == (f"masks with values of no class, untold there: 1 ({tmp_path}/data/masks/a.png)",)


def test_sizes(tmp_path):
    """A scaled mask stays, one of another shape leaves with its picture, one of the stored picture is turned."""
    root = tmp_path / "data"
    for name, size, orientation in (("half", (10, 5), 1), ("other", (10, 10), 1), ("turned", (20, 10), 8)):
        picture(root / "images" / f"{name}.jpg", orientation=orientation)
        mask_file(root / "masks" / f"{name}.png", np.arange(size[0] * size[1]).reshape(size[::-1]) % 3)
    mask_file(root / "masks" / "gone.png", VALUES)
    picture(root / "images" / "broken.jpg")
    (root / "masks" / "broken.png").write_bytes(b"\x89PNG")
    picture(root / "images" / "alone.jpg")
    found = values(source("masks", root))
    assert set(found) == {"half.jpg", "turned.jpg"}
    np.testing.assert_array_equal(found["turned.jpg"], np.rot90(np.arange(200).reshape(10, 20) % 3))
    assert source("masks", root).notes == (
        f"pictures without a mask, left out: 1 ({root}/images/alone.jpg)",
        f"masks without a picture, left out: 1 ({root}/masks/gone.png)",
        f"pictures whose mask cannot be read, left out: 1 ({root}/images/broken.jpg)",
        f"masks of another size than their picture, scaled: 1 ({root}/masks/half.png)",
        f"pictures of another shape than their mask, left out: 1 ({root}/images/other.jpg)",
        f"masks of pictures that are shown turned, turned: 1 ({root}/masks/turned.png)",
    )


def test_names_and_splits(tmp_path):
    """Marks behind the name, masks beside the pictures, splits above and below, folders of other names."""
    for name in ("images/train/a", "images/val/deep/b"):
        picture(tmp_path / "below" / f"{name}.jpg")
        mask_file(tmp_path / "below" / f"{name.replace('images', 'masks')}_mask.png", VALUES)
    assert source("masks", tmp_path / "below").sizes == {"train": 1, "val": 1}
    for split in ("train", "test"):
        picture(tmp_path / "above" / split / "photos" / "a.png")
        mask_file(tmp_path / "above" / split / "truth" / "a_L.png", VALUES)
    assert source("masks", tmp_path / "above", images="photos", masks="truth").sizes == {"train": 1, "test": 1}
    for name in ("a", "b"):
        picture(tmp_path / "beside" / f"{name}.png")
        mask_file(tmp_path / "beside" / f"{name}_mask.png", VALUES)
    found = values(source("masks", tmp_path / "beside"))
    assert list(found) == ["a.png", "b.png"]
    np.testing.assert_array_equal(found["b.png"], VALUES)


def test_maps_of_colours(tmp_path):
    """Every way to write one; from another file, too."""
    place = tmp_path / "my colours.txt"
    place.write_text("\ufeff# a comment\nsky 0 0 0\n128,0,0 road\n\nbig  tree\t0 128 7 # green\nlast:1,2,3:parts:x\n")
    expected = {"sky": (0, 0, 0), "road": (128, 0, 0), "big tree": (0, 128, 7), "last": (1, 2, 3)}
    assert read_color_map(tmp_path, str(place)) == expected
    assert read_color_map(tmp_path) == {}
    (tmp_path / "classes.txt").write_text("route 66\nroad works\n")
    assert read_color_map(tmp_path) == {"route 66": None, "road works": None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sky 0 0 0\nsky 1 1 1\n", "a class or a colour that is there twice; received: {place}, line 2: sky 1 1 1"),
        ("sky 0 0 0\nsea 0 0 0\n", "a class or a colour that is there twice; received: {place}, line 2: sea 0 0 0"),
        ("sky 0 0 300\n", "not a class and its colour; received: {place}, line 1: sky 0 0 300; allowed: "),
        ("sky:0,0\n", "not a class and its colour; received: {place}, line 1: sky:0,0; allowed: "),
        ("sky 0 0 0\nroad\n", "some classes have a colour and some have none; received: {place}"),
        ("\n".join(f"class {number}" for number in range(256)), "too many classes for masks; received: {place}: 256; "),
    ],
)
def test_maps_that_are_wrong(tmp_path, text, said):
    """One line, with the file and its line."""
    place = tmp_path / "labelmap.txt"
    place.write_text(text)
    assert complaint(read_color_map, tmp_path).startswith(said.format(place=place))


def test_folders_that_are_none(tmp_path):
    """Colours of which nobody says the class, JPEG files, pictures in place of masks, no masks at all."""
    colours = (
        "masks have colours, and nobody says which class each is; received: RGB; write a labelmap.txt with a line "
    )
    assert complaint(masks, tmp_path, coloured(VALUES), "RGB").startswith(colours)
    noise = np.arange(200).reshape(10, 20)
    assert complaint(masks, tmp_path, noise).startswith(
        "so many values are no classes; received: 200; allowed: up to 64"
    )
    root = tmp_path / "data"
    Image.fromarray(VALUES).save(root / "masks" / "a.jpg")
    (root / "masks" / "a.png").unlink()
    assert complaint(source, "masks", root) == (
        f"JPEG changes the values of masks; received: {root}/masks/a.jpg; allowed: masks as PNG"
    )
    plain = class_folder(tmp_path / "plain", cat=1)
    assert complaint(source, "masks", plain).startswith(f"no picture with a mask in this folder; received: {plain}; ")
    said = complaint(lambda: source("masks", root, colours="gone.txt"))
    assert said.startswith("cannot read the classes of masks; received: gone.txt")
    assert complaint(source, "masks", tmp_path / "gone") == f"no such folder; received: {tmp_path / 'gone'}"


def test_recognized(tmp_path):
    """By the names of its folders, whatever splits there are."""
    masks(tmp_path, VALUES)
    assert infer_source(str(tmp_path / "data")).name == "masks"
    picture(tmp_path / "split" / "train" / "images" / "a.png")
    mask_file(tmp_path / "split" / "train" / "masks" / "a.png", VALUES)
    assert infer_source(str(tmp_path / "split")).name == "masks"
