"""Pictures of every kind come out as Pillow sees them, in training and inside a SavedModel alike."""

import functools
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.modalities.image import describe_error
from tfx_finetune.types.components import MODALITIES, PretrainedCfg

WHITE = (255, 255, 255)


def modality(channels=3, **options):
    return MODALITIES.build(Spec("image", (), options), PretrainedCfg(size=32, channels=channels))


def photo(height=48, width=64):
    """A smooth colourful picture, so that lossy formats stay near it."""
    y, x = np.mgrid[:height, :width] / 64
    channels = [128 + 120 * np.sin(5 * x), 128 + 120 * np.cos(4 * y), 128 + 120 * np.sin(3 * (x + y))]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def cutout():
    """A picture with every grade of alpha."""
    picture = photo().convert("RGBA")
    picture.putalpha(Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))))
    return picture


def encoded(picture, format, **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def as_pillow(raw, background=WHITE):
    """Pillow's reading: upright, composited over the background."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        back = Image.new("RGBA", picture.size, (*background, 255))
        picture = Image.alpha_composite(back, picture)
    return np.asarray(picture.convert("RGB")).astype(int)


@functools.cache
def decoder(**options):
    """Traced once for all files: in the pipeline and in a SavedModel decoding is a graph."""
    return tf.function(modality(**options).decode, input_signature=[tf.TensorSpec([], tf.string)])


def decoded(raw, **options):
    return decoder(**options)(tf.constant(raw)).numpy().astype(int)


def palette():
    return photo().quantize(16)


def long_text():
    """More than what is looked at of the heads of files."""
    text = PngInfo()
    text.add_text("comment", "tRNs " * 20_000)
    return text


FILES = {
    "jpeg": (lambda: encoded(photo(), "JPEG"), 0),
    "jpeg 420 progressive": (lambda: encoded(photo(), "JPEG", progressive=True, subsampling=2), 1),
    "jpeg grey": (lambda: encoded(photo().convert("L"), "JPEG"), 0),
    "jpeg cmyk": (lambda: encoded(photo().convert("CMYK"), "JPEG"), 1),
    "png": (lambda: encoded(photo(), "PNG"), 0),
    "png alpha": (lambda: encoded(cutout(), "PNG"), 1),
    "png grey alpha": (lambda: encoded(cutout().convert("LA"), "PNG"), 1),
    "png palette": (lambda: encoded(palette(), "PNG"), 0),
    "png palette transparent": (lambda: encoded(palette(), "PNG", transparency=3), 0),
    "png grey transparent": (lambda: encoded(photo().convert("L"), "PNG", transparency=128), 0),
    "png colour transparent": (lambda: encoded(photo(), "PNG", transparency=photo().getpixel((3, 3))), 0),
    "png 2 bit palette transparent": (lambda: encoded(photo().quantize(4), "PNG", transparency=1), 0),
    "png 1 bit behind a long text": (lambda: encoded(photo().convert("1"), "PNG", pnginfo=long_text()), 0),
    "png 2 bit palette": (lambda: encoded(photo().quantize(4), "PNG"), 0),
    "png 1 bit": (lambda: encoded(photo().convert("1"), "PNG"), 0),
    "gif": (lambda: encoded(palette(), "GIF"), 0),
    "gif transparent": (lambda: encoded(palette(), "GIF", transparency=3), 0),
    "gif animated": (lambda: encoded(palette(), "GIF", save_all=True, append_images=[palette().rotate(90)]), 0),
    "bmp": (lambda: encoded(photo(), "BMP"), 0),
    "bmp palette": (lambda: encoded(palette(), "BMP"), 0),
    "bmp grey": (lambda: encoded(photo().convert("L"), "BMP"), 0),
    "bmp 1 bit": (lambda: encoded(photo(48, 61).convert("1"), "BMP"), 0),
    "webp lossy": (lambda: encoded(photo(), "WEBP", quality=90), 1),
    "webp lossless alpha": (lambda: encoded(cutout(), "WEBP", lossless=True, exact=True), 1),
}


@pytest.mark.parametrize("background", ["white", "#204060"])
@pytest.mark.parametrize("name", FILES)
def test_decodes_as_pillow_does(name, background):
    """A format that comes out wrong trains a model on noise, without any error."""
    make, tolerance = FILES[name]
    raw = make()
    colour = WHITE if background == "white" else (0x20, 0x40, 0x60)
    ours, theirs = decoded(raw, background=background), as_pillow(raw, colour)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance


def test_animated_webp_is_refused():
    """TensorFlow's decoder cannot be trusted with it (it corrupts memory), so it never sees one."""
    raw = encoded(photo(), "WEBP", save_all=True, append_images=[photo().rotate(90)], lossless=True)
    with pytest.raises(tf.errors.OpError) as error:
        decoded(raw)
    assert describe_error(error.value) == "an animated WebP"


def test_sixteen_bits_keep_the_upper_eight():
    """Medical and scientific PNGs: 16-bit values scale to 8 bits, they are not clipped."""
    values = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
    ours = decoded(encoded(Image.fromarray(values), "PNG"))
    assert np.abs(ours - (values // 256)[..., None].astype(int)).max() == 0


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation(value, format):
    """Phones write pictures lying on their side and say so in EXIF."""
    exif = Image.Exif()
    exif[0x0112] = value
    raw = encoded(photo(), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    assert np.abs(decoded(raw) - as_pillow(raw)).max() <= 1


def test_exif_of_both_byte_orders():
    """Cameras write big-endian, phones little-endian blocks; other tags stand before the orientation."""
    for order in (b"II", b"MM"):
        name = "little" if order == b"II" else "big"
        entries = [(0x010F, 2, 3, b"ab\0\0"), (0x0112, 3, 1, (6).to_bytes(2, name) + b"\0\0")]
        body = b"".join(t.to_bytes(2, name) + k.to_bytes(2, name) + n.to_bytes(4, name) + v for t, k, n, v in entries)
        tiff = order + (42).to_bytes(2, name) + (8).to_bytes(4, name) + len(entries).to_bytes(2, name) + body + bytes(4)
        raw = encoded(photo(), "JPEG", exif=b"Exif\0\0" + tiff)
        assert decoded(raw).shape == (64, 48, 3)
        assert np.abs(decoded(raw) - as_pillow(raw)).max() == 0


def half(raw):
    return raw[: len(raw) // 2]


BROKEN = {
    "empty": (b"", "empty file"),
    "text": (b"this is not a picture at all, only text", "not a JPEG, PNG, GIF, BMP or WebP picture"),
    "truncated JPEG": (half(encoded(photo(), "JPEG")), "JPEG"),
    "JPEG without its end": (encoded(photo(), "JPEG")[:-2], "JPEG"),
    "truncated PNG": (half(encoded(photo(), "PNG")), "PNG"),
    "PNG with a wrong checksum": (encoded(photo(), "PNG")[:60] + b"\xff" + encoded(photo(), "PNG")[61:], "PNG"),
    "truncated GIF": (half(encoded(palette(), "GIF")), "GIF"),
    "truncated BMP": (encoded(photo(), "BMP")[:900], "BMP"),
    "truncated palette BMP": (encoded(palette(), "BMP")[:1500], "BMP"),
    "truncated WebP": (half(encoded(photo(), "WEBP")), "WebP"),
    "JPEG head alone": (b"\xff\xd8\xff\xe0" + bytes(40), "JPEG"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_a_reason(name):
    """Half a picture is no picture: it is refused, and the reason fits on a line of the report."""
    raw, expected = BROKEN[name]
    with pytest.raises(tf.errors.OpError) as error:
        decoded(raw)
    assert expected in describe_error(error.value)
    assert len(describe_error(error.value)) < 80


def test_the_reason_is_not_that_of_a_path():
    """TensorFlow says where an operation was made: in somebody's file, and a function of any name."""
    made = (
        'Detected at node cond/DecodePng defined at (most recent call last):\n  File "/jpeg/a.py", line 4, in to_jpeg\n'
    )
    error = tf.errors.InvalidArgumentError(None, None, f"Graph execution error:\n\n{made}\nInvalid PNG data, size 3")
    assert describe_error(error) == "truncated or corrupt PNG"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_decompression_bombs_are_refused_unopened(format):
    """The header's size counts, before anything is decompressed."""
    raw = encoded(palette() if format == "GIF" else photo(), format)
    with pytest.raises(tf.errors.OpError) as error:
        decoded(raw, max_pixels=3071)
    assert "64 x 48 pixels, at most 3071" in describe_error(error.value)
    assert decoded(raw, max_pixels=3072).shape == (48, 64, 3)


def test_a_png_that_claims_to_be_huge():
    """A real bomb: a header of 60,000 by 60,000 pixels in a small file."""
    raw = bytearray(encoded(photo(), "PNG"))
    raw[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(tf.errors.OpError) as error:
        decoded(bytes(raw))
    assert "60000 x 60000 pixels" in describe_error(error.value)


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (20, 31), (200, 301), (1, 500), (500, 1), (32, 32)])
@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
def test_resizes_as_pillow_does(shape, resize):
    """Down and up, of any proportion: within rounding of Pillow's antialiased bilinear resize."""
    picture = photo(*shape)
    ours = modality(resize=resize).prepare(tf.constant(np.asarray(picture))).numpy().astype(int)
    height, width = shape
    if resize == "stretch":
        theirs = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
    else:
        scale = 32 / (max if resize == "pad" else min)(shape)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
        top, left = abs(32 - size[1]) // 2, abs(32 - size[0]) // 2
        if resize == "crop":
            theirs = small[top : top + 32, left : left + 32]
        else:
            theirs = np.full((32, 32, 3), 255)
            theirs[top : top + size[1], left : left + size[0]] = small
    assert ours.shape == (32, 32, 3)
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    # The input has 32 pixels: at least 64 are left of the shorter side.
    [(120, 200, 1), (128, 200, 2), (255, 900, 2), (256, 300, 4), (511, 512, 4), (512, 700, 8), (2048, 1024, 8)],
)
def test_large_jpegs_are_decoded_at_a_part_of_their_size(height, width, expected):
    """A person sees no difference in what the model gets, which is what Pillow gives within a few values."""
    picture = photo().resize((width, height), Image.Resampling.BICUBIC)
    raw = encoded(picture, "JPEG", quality=95)
    pixels = decoded(raw)
    assert pixels.shape == (-(-height // expected), -(-width // expected), 3)
    found = modality(resize="stretch").prepare(tf.constant(pixels.astype(np.uint8))).numpy().astype(int)
    full = np.asarray(Image.open(io.BytesIO(raw)).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found - full).mean() < 1.5
    assert np.abs(found - full).max() < 12


def test_one_channel_is_luma():
    """A backbone of grey input sees Pillow's grey values."""
    raw = encoded(photo(), "PNG")
    assert np.array_equal(decoded(raw, channels=1)[..., 0], np.asarray(photo().convert("L")).astype(int))


def test_pixels_pass_through():
    """Arrays (MNIST) need no decoding: grey to colour and colour to grey."""
    grey = tf.constant(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert np.array_equal(modality(1).decode(grey).numpy(), grey.numpy()[..., None])
    assert np.array_equal(modality(3).decode(grey[..., None]).numpy(), np.repeat(grey.numpy()[..., None], 3, -1))


def test_same_pixels_inside_a_saved_model(tmp_path):
    """What is served decodes and prepares with the very operations of the pipeline."""
    image = modality()
    module = tf.Module()
    module.run = tf.function(
        lambda raw: tf.map_fn(lambda one: image.prepare(image.decode(one)), raw, fn_output_signature=tf.uint8),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    raws = [FILES[name][0]() for name in ("jpeg cmyk", "gif transparent", "bmp palette", "webp lossless alpha")]
    served = tf.saved_model.load(str(tmp_path)).run(tf.constant(raws)).numpy()
    piped = tf.data.Dataset.from_tensor_slices(raws).map(lambda raw: image.prepare(image.decode(raw)), 2)
    for raw, one, other in zip(raws, served, piped.as_numpy_iterator(), strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, image.prepare(image.decode(tf.constant(raw))).numpy())


def test_blank_is_the_background():
    """A missing picture is an empty one."""
    assert (modality(background="#010203").blank().numpy() == [1, 2, 3]).all()
    with pytest.raises(UserError, match="unknown colour; received: pinkish"):
        modality(background="pinkish")
