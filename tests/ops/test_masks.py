"""Segmentation masks: decoding of every kind of PNG, resizing, and checks."""

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


def encode_png(values, depth=8, color_type=0, extra_chunks=b""):
    """Encode values (height, width) of a bit depth as a PNG file, following the specification."""
    height, width = values.shape
    rows = b""
    for row in values.tolist():
        bits = "".join(format(value, f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    palette = chunk(b"PLTE", RNG.integers(0, 256, 3 * 2**depth).astype("uint8").tobytes()) if color_type == 3 else b""
    content = chunk(b"IHDR", header) + palette + extra_chunks + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def decode(raw, shape):
    return masks.read_mask(tf.constant(raw), tf.constant(shape)).numpy()


@pytest.mark.parametrize("color_type", [0, 3], ids=["grayscale", "palette"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("extra_chunks", [b"", chunk(b"tRNS", b"\0\1"), chunk(b"tEXt", b"Comment\0IDAT")], ids=len)
def test_stored_values_are_decoded(color_type, depth, extra_chunks, capfd):
    """Palette indices are not converted to colors, gray values are not scaled, and nothing is logged."""
    values = RNG.integers(0, 2**depth, (5, 7))
    raw = encode_png(values, depth, color_type, extra_chunks)
    assert np.array_equal(decode(raw, (5, 7))[..., 0], values)
    classes = np.setdiff1d(values, 255)
    assert masks.check_mask(raw) == ("\n".join(map(str, classes)), "", ())
    assert masks.read_mask_size(raw) == (7, 5)
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_files_of_pillow_are_decoded(mode):
    """Files that Pillow writes are decoded to the values that Pillow was given."""
    values = RNG.integers(0, 2 if mode == "1" else 200, (30, 41)).astype("uint8")
    image = Image.fromarray(values.astype(bool) if mode == "1" else values)
    if mode == "P":
        image.putpalette(RNG.integers(0, 256, 768).astype("uint8").tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    assert np.array_equal(decode(stream.getvalue(), (30, 41))[..., 0], values)


def test_16_bit_masks_have_classes_up_to_255():
    """Values up to 255 are classes at any bit depth; a value above 255 is an error."""
    values = RNG.integers(0, 250, (4, 4))
    assert np.array_equal(decode(encode_png(values, 16), (4, 4))[..., 0], values)
    values[0, 0] = 256
    assert masks.check_mask(encode_png(values, 16)) == ("", "the mask has values above 255", ())


def test_a_mask_is_resized_to_its_image():
    """Resizing by nearest neighbor equals Pillow's; a missing mask is unlabeled."""
    values = RNG.integers(0, 256, (12, 9)).astype("uint8")
    for shape in ((24, 18), (6, 5), (29, 7)):
        expected = np.asarray(Image.fromarray(values).resize(shape[::-1], Image.Resampling.NEAREST))
        assert np.array_equal(decode(encode_png(values), shape)[..., 0], expected)
    assert np.array_equal(decode(b"", (3, 4)), np.full((3, 4, 1), 255))


def test_a_mask_is_letterboxed_like_its_image():
    """A wide mask in a square of 8 has two unlabeled rows above and below; cropped, it fills the square."""
    values = np.arange(8, dtype="uint8").reshape(2, 4, 1)
    padded = masks.letterbox_mask(
        tf.constant(values), Letterbox(tf.constant([2.0, 2.0]), tf.constant([2.0, 0.0]), 8)
    ).numpy()
    assert np.array_equal(padded[2:6], values[..., 0].repeat(2, 0).repeat(2, 1))
    assert (padded[[0, 1, 6, 7]] == 255).all()
    cropped = masks.letterbox_mask(
        tf.constant(values), Letterbox(tf.constant([4.0, 4.0]), tf.constant([0.0, -4.0]), 8)
    ).numpy()
    assert np.array_equal(cropped, values[:, 1:3, 0].repeat(4, 0).repeat(4, 1))
    # A smaller result has the values of the nearest pixel centers.
    small = masks.letterbox_mask(
        tf.constant(values), Letterbox(tf.constant([0.5, 0.5]), tf.constant([0.0, 0.0]), 2)
    ).numpy()
    assert small.tolist() == [[5, 7], [255, 255]]


@pytest.mark.parametrize(
    ("raw", "error_message"),
    [
        (b"", "the mask is not a PNG file"),
        (b"\xff\xd8\xff" + bytes(50), "the mask is not a PNG file"),
        (encode_png(np.zeros((4, 12), int), 8, 2), "the mask is RGB, not grayscale or palette"),
        (encode_png(np.ones((9, 9), int))[:60], "truncated or corrupt mask"),
        (encode_png(np.full((3, 3), 255)), "all pixels of the mask are 255, which means unlabeled"),
    ],
    ids=["empty", "jpeg", "rgb", "truncated", "unlabeled"],
)
def test_unusable_masks_have_a_reason(raw, error_message):
    """The check returns the reason that the report lists."""
    assert masks.check_mask(raw) == ("", error_message, ())
