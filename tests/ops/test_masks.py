"""Masks: every kind of PNG that holds places of classes, the sizes they come to, and what is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_finetune.ops import masks
from tfx_finetune.types.localization import Letterbox

RNG = np.random.default_rng(0)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, depth=8, kind=0, more=b""):
    """A PNG file as its specification has it, of values (height, width) of so many bits."""
    height, width = values.shape
    rows = b""
    for row in values.tolist():
        bits = "".join(format(value, f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    palette = chunk(b"PLTE", RNG.integers(0, 256, 3 * 2**depth).astype("uint8").tobytes()) if kind == 3 else b""
    content = chunk(b"IHDR", header) + palette + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def decoded(raw, shape):
    return masks.read(tf.constant(raw), tf.constant(shape)).numpy()


@pytest.mark.parametrize("kind", [0, 3], ids=["grey", "palette"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("more", [b"", chunk(b"tRNS", b"\0\1"), chunk(b"tEXt", b"Comment\0IDAT")], ids=len)
def test_what_a_file_stores_is_what_is_read(kind, depth, more, capfd):
    """Not the colours of a palette, nor greys made brighter, whatever else the file says of colours; in silence."""
    values = RNG.integers(0, 2**depth, (5, 7))
    raw = png(values, depth, kind, more)
    assert np.array_equal(decoded(raw, (5, 7))[..., 0], values)
    told = np.setdiff1d(values, 255)
    assert masks.examine(raw) == ("\n".join(map(str, told)), "", ())
    assert masks.read_mask_size(raw) == (7, 5)
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_files_of_pillow(mode):
    """Those that other programs write, interlaced or not, are read as Pillow reads them."""
    values = RNG.integers(0, 2 if mode == "1" else 200, (30, 41)).astype("uint8")
    picture = Image.fromarray(values.astype(bool) if mode == "1" else values)
    if mode == "P":
        picture.putpalette(RNG.integers(0, 256, 768).astype("uint8").tobytes())
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    assert np.array_equal(decoded(stream.getvalue(), (30, 41))[..., 0], values)


def test_sixteen_bits():
    """Values up to 255 are classes however many bits they are stored in; a value above is none."""
    values = RNG.integers(0, 250, (4, 4))
    assert np.array_equal(decoded(png(values, 16), (4, 4))[..., 0], values)
    values[0, 0] = 256
    assert masks.examine(png(values, 16)) == ("", "the mask has values above 255", ())


def test_a_mask_comes_to_the_size_of_its_picture():
    """By the nearest pixel, as Pillow has it, larger and smaller; what is not there tells nothing."""
    values = RNG.integers(0, 256, (12, 9)).astype("uint8")
    for shape in ((24, 18), (6, 5), (29, 7)):
        expected = np.asarray(Image.fromarray(values).resize(shape[::-1], Image.Resampling.NEAREST))
        assert np.array_equal(decoded(png(values), shape)[..., 0], expected)
    assert np.array_equal(decoded(b"", (3, 4)), np.full((3, 4, 1), 255))


def test_a_mask_lies_as_its_picture_does():
    """Of a lying picture in a square of 8: two rows above and below tell nothing; cut, it fills the square."""
    values = np.arange(8, dtype="uint8").reshape(2, 4, 1)
    padded = masks.letterbox_mask(
        tf.constant(values), Letterbox(tf.constant([2.0, 2.0]), tf.constant([2.0, 0.0]), 8)
    ).numpy()
    assert np.array_equal(padded[2:6], values[..., 0].repeat(2, 0).repeat(2, 1))
    assert (padded[[0, 1, 6, 7]] == 255).all()
    cut = masks.letterbox_mask(
        tf.constant(values), Letterbox(tf.constant([4.0, 4.0]), tf.constant([0.0, -4.0]), 8)
    ).numpy()
    assert np.array_equal(cut, values[:, 1:3, 0].repeat(4, 0).repeat(4, 1))
    # Smaller: the pixels whose centres are nearest.
    small = masks.letterbox_mask(
        tf.constant(values), Letterbox(tf.constant([0.5, 0.5]), tf.constant([0.0, 0.0]), 2)
    ).numpy()
    assert small.tolist() == [[5, 7], [255, 255]]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "the mask is not a PNG file"),
        (b"\xff\xd8\xff" + bytes(50), "the mask is not a PNG file"),
        (png(np.zeros((4, 12), int), 8, 2), "the mask has colours, not grey or a palette"),
        (png(np.ones((9, 9), int))[:60], "truncated or corrupt mask"),
        (png(np.full((3, 3), 255)), "the mask is 255 everywhere, which tells nothing"),
    ],
    ids=["empty", "jpeg", "colours", "truncated", "untold"],
)
def test_what_cannot_be_used_is_said(raw, reason):
    """The reason stands in the report, so it tells what the file is."""
    assert masks.examine(raw) == ("", reason, ())
