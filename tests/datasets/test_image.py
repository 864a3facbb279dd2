"""Images: decoding and resizing of every format equal Pillow's, in the pipeline and inside a SavedModel."""

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
    """Make a smooth color image, which lossy formats change only slightly."""
    y, x = np.mgrid[:height, :width] / 64
    channels = [128 + 120 * np.sin(5 * x), 128 + 120 * np.cos(4 * y), 128 + 120 * np.sin(3 * (x + y))]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def photo_with_alpha():
    """Make an image with every level of alpha."""
    image = photo().convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))))
    return image


def encode(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def decode_with_pillow(raw, background=WHITE):
    """Decode with Pillow, upright and composited over the background."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background_image = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(background_image, image)
    return np.asarray(image.convert("RGB")).astype(int)


@functools.cache
def make_decoder(**options):
    """Trace decoding once for all files, since pipeline and SavedModel decode in a graph."""
    return tf.function(modality(**options).decode, input_signature=[tf.TensorSpec([], tf.string)])


def decode(raw, **options):
    return make_decoder(**options)(tf.constant(raw)).numpy().astype(int)


def palette_image():
    return photo().quantize(16)


def long_text():
    """Make a text chunk that is longer than the part of a file that is searched for EXIF."""
    text = PngInfo()
    text.add_text("comment", "tRNs " * 20_000)
    return text


FILES = {
    "jpeg": (lambda: encode(photo(), "JPEG"), 0),
    "jpeg 420 progressive": (lambda: encode(photo(), "JPEG", progressive=True, subsampling=2), 1),
    "jpeg grey": (lambda: encode(photo().convert("L"), "JPEG"), 0),
    "jpeg cmyk": (lambda: encode(photo().convert("CMYK"), "JPEG"), 1),
    "png": (lambda: encode(photo(), "PNG"), 0),
    "png alpha": (lambda: encode(photo_with_alpha(), "PNG"), 1),
    "png grey alpha": (lambda: encode(photo_with_alpha().convert("LA"), "PNG"), 1),
    "png palette": (lambda: encode(palette_image(), "PNG"), 0),
    "png palette transparent": (lambda: encode(palette_image(), "PNG", transparency=3), 0),
    "png grey transparent": (lambda: encode(photo().convert("L"), "PNG", transparency=128), 0),
    "png rgb transparent": (lambda: encode(photo(), "PNG", transparency=photo().getpixel((3, 3))), 0),
    "png 2 bit palette transparent": (lambda: encode(photo().quantize(4), "PNG", transparency=1), 0),
    "png 1 bit behind a long text": (lambda: encode(photo().convert("1"), "PNG", pnginfo=long_text()), 0),
    "png 2 bit palette": (lambda: encode(photo().quantize(4), "PNG"), 0),
    "png 1 bit": (lambda: encode(photo().convert("1"), "PNG"), 0),
    "gif": (lambda: encode(palette_image(), "GIF"), 0),
    "gif transparent": (lambda: encode(palette_image(), "GIF", transparency=3), 0),
    "gif animated": (
        lambda: encode(palette_image(), "GIF", save_all=True, append_images=[palette_image().rotate(90)]),
        0,
    ),
    "bmp": (lambda: encode(photo(), "BMP"), 0),
    "bmp palette": (lambda: encode(palette_image(), "BMP"), 0),
    "bmp grey": (lambda: encode(photo().convert("L"), "BMP"), 0),
    "bmp 1 bit": (lambda: encode(photo(48, 61).convert("1"), "BMP"), 0),
    "webp lossy": (lambda: encode(photo(), "WEBP", quality=90), 1),
    "webp lossless alpha": (lambda: encode(photo_with_alpha(), "WEBP", lossless=True, exact=True), 1),
}


@pytest.mark.parametrize("background", ["white", "#204060"])
@pytest.mark.parametrize("name", FILES)
def test_decodes_as_pillow_does(name, background):
    """Every format is decoded to Pillow's pixels, within the tolerance of lossy formats."""
    make, tolerance = FILES[name]
    raw = make()
    color = WHITE if background == "white" else (0x20, 0x40, 0x60)
    pixels, expected = decode(raw, background=background), decode_with_pillow(raw, color)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= tolerance


def test_animated_webp_is_rejected():
    """TensorFlow's decoder corrupts its memory on an animation, so it never gets one."""
    raw = encode(photo(), "WEBP", save_all=True, append_images=[photo().rotate(90)], lossless=True)
    with pytest.raises(tf.errors.OpError) as error:
        decode(raw)
    assert describe_error(error.value) == "animated WebP"


def test_16_bit_images_keep_the_upper_8_bits():
    """16-bit values of scientific images are scaled to 8 bits, not clipped."""
    values = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
    pixels = decode(encode(Image.fromarray(values), "PNG"))
    assert np.abs(pixels - (values // 256)[..., None].astype(int)).max() == 0


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation(value, format):
    """Images of all 8 EXIF orientations are turned upright."""
    exif = Image.Exif()
    exif[0x0112] = value
    raw = encode(photo(), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    assert np.abs(decode(raw) - decode_with_pillow(raw)).max() <= 1


def test_exif_of_both_byte_orders():
    """Big-endian and little-endian EXIF blocks with other tags before the orientation are read."""
    for order in (b"II", b"MM"):
        name = "little" if order == b"II" else "big"
        entries = [(0x010F, 2, 3, b"ab\0\0"), (0x0112, 3, 1, (6).to_bytes(2, name) + b"\0\0")]
        body = b"".join(t.to_bytes(2, name) + k.to_bytes(2, name) + n.to_bytes(4, name) + v for t, k, n, v in entries)
        tiff = order + (42).to_bytes(2, name) + (8).to_bytes(4, name) + len(entries).to_bytes(2, name) + body + bytes(4)
        raw = encode(photo(), "JPEG", exif=b"Exif\0\0" + tiff)
        assert decode(raw).shape == (64, 48, 3)
        assert np.abs(decode(raw) - decode_with_pillow(raw)).max() == 0


def first_half(raw):
    return raw[: len(raw) // 2]


BROKEN = {
    "empty": (b"", "empty file"),
    "text": (b"this is not an image at all, only text", "not a JPEG, PNG, GIF, BMP or WebP image"),
    "truncated JPEG": (first_half(encode(photo(), "JPEG")), "JPEG"),
    "JPEG without its end": (encode(photo(), "JPEG")[:-2], "JPEG"),
    "truncated PNG": (first_half(encode(photo(), "PNG")), "PNG"),
    "PNG with a wrong checksum": (encode(photo(), "PNG")[:60] + b"\xff" + encode(photo(), "PNG")[61:], "PNG"),
    "truncated GIF": (first_half(encode(palette_image(), "GIF")), "GIF"),
    "truncated BMP": (encode(photo(), "BMP")[:900], "BMP"),
    "truncated palette BMP": (encode(palette_image(), "BMP")[:1500], "BMP"),
    "truncated WebP": (first_half(encode(photo(), "WEBP")), "WebP"),
    "JPEG header only": (b"\xff\xd8\xff\xe0" + bytes(40), "JPEG"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_rejected_with_a_reason(name):
    """A truncated or corrupt file is an error with a reason that fits on a line of the report."""
    raw, expected = BROKEN[name]
    with pytest.raises(tf.errors.OpError) as error:
        decode(raw)
    assert expected in describe_error(error.value)
    assert len(describe_error(error.value)) < 80


def test_the_reason_does_not_depend_on_paths():
    """TensorFlow's message has a traceback whose files and functions may be named after a format."""
    traceback = (
        'Detected at node cond/DecodePng defined at (most recent call last):\n  File "/jpeg/a.py", line 4, in to_jpeg\n'
    )
    error = tf.errors.InvalidArgumentError(
        None, None, f"Graph execution error:\n\n{traceback}\nInvalid PNG data, size 3"
    )
    assert describe_error(error) == "truncated or corrupt PNG"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_large_images_are_rejected_before_decompression(format):
    """The size in the header is compared with the limit before anything is decompressed."""
    raw = encode(palette_image() if format == "GIF" else photo(), format)
    with pytest.raises(tf.errors.OpError) as error:
        decode(raw, max_pixels=3071)
    assert "64 x 48 pixels, at most 3071" in describe_error(error.value)
    assert decode(raw, max_pixels=3072).shape == (48, 64, 3)


def test_a_decompression_bomb_is_rejected():
    """A small file with a header of 60,000 x 60,000 pixels is an error."""
    raw = bytearray(encode(photo(), "PNG"))
    raw[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(tf.errors.OpError) as error:
        decode(bytes(raw))
    assert "60000 x 60000 pixels" in describe_error(error.value)


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (20, 31), (200, 301), (1, 500), (500, 1), (32, 32)])
@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
def test_resizes_as_pillow_does(shape, resize):
    """Any size and aspect ratio is resized within rounding of Pillow's antialiased bilinear filter."""
    image = photo(*shape)
    pixels = modality(resize=resize).prepare(tf.constant(np.asarray(image))).numpy().astype(int)
    height, width = shape
    if resize == "stretch":
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    else:
        scale = 32 / (max if resize == "pad" else min)(shape)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        top, left = abs(32 - size[1]) // 2, abs(32 - size[0]) // 2
        if resize == "crop":
            expected = small[top : top + 32, left : left + 32]
        else:
            expected = np.full((32, 32, 3), 255)
            expected[top : top + size[1], left : left + size[0]] = small
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels - expected).max() <= 2


@pytest.mark.parametrize(
    ("height", "width", "divisor"),
    # The model input has 32 pixels: the shorter side keeps at least 64.
    [(120, 200, 1), (128, 200, 2), (255, 900, 2), (256, 300, 4), (511, 512, 4), (512, 700, 8), (2048, 1024, 8)],
)
def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(height, width, divisor):
    """The model input differs from Pillow's resize of the full image by a few values only."""
    image = photo().resize((width, height), Image.Resampling.BICUBIC)
    raw = encode(image, "JPEG", quality=95)
    pixels = decode(raw)
    assert pixels.shape == (-(-height // divisor), -(-width // divisor), 3)
    prepared = modality(resize="stretch").prepare(tf.constant(pixels.astype(np.uint8))).numpy().astype(int)
    full = np.asarray(Image.open(io.BytesIO(raw)).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(prepared - full).mean() < 1.5
    assert np.abs(prepared - full).max() < 12


def test_one_channel_is_luma():
    """A backbone with one input channel gets Pillow's gray values."""
    raw = encode(photo(), "PNG")
    assert np.array_equal(decode(raw, channels=1)[..., 0], np.asarray(photo().convert("L")).astype(int))


def test_pixels_pass_through():
    """Decoded pixels, such as those of MNIST, only change their number of channels."""
    gray = tf.constant(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert np.array_equal(modality(1).decode(gray).numpy(), gray.numpy()[..., None])
    assert np.array_equal(modality(3).decode(gray[..., None]).numpy(), np.repeat(gray.numpy()[..., None], 3, -1))


def test_same_pixels_inside_a_saved_model(tmp_path):
    """A SavedModel, a pipeline and eager calls give the same pixels."""
    image = modality()
    module = tf.Module()
    module.run = tf.function(
        lambda raw: tf.map_fn(lambda content: image.prepare(image.decode(content)), raw, fn_output_signature=tf.uint8),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    raws = [FILES[name][0]() for name in ("jpeg cmyk", "gif transparent", "bmp palette", "webp lossless alpha")]
    served = tf.saved_model.load(str(tmp_path)).run(tf.constant(raws)).numpy()
    piped = tf.data.Dataset.from_tensor_slices(raws).map(lambda raw: image.prepare(image.decode(raw)), 2)
    for raw, from_saved_model, from_pipeline in zip(raws, served, piped.as_numpy_iterator(), strict=True):
        assert np.array_equal(from_saved_model, from_pipeline)
        assert np.array_equal(from_saved_model, image.prepare(image.decode(tf.constant(raw))).numpy())


def test_the_empty_value_is_the_background():
    """A missing image has the background color; an unknown color is an error."""
    assert (modality(background="#010203").empty_value().numpy() == [1, 2, 3]).all()
    with pytest.raises(UserError, match=r"Unknown color: pinkish\. Expected: white, black, gray, grey, #rrggbb\."):
        modality(background="pinkish")
