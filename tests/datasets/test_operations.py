"""The changes that RandAugment and AugMix choose from, against Pillow's own."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from tfx_finetune.datasets.augments import operations

RNG = np.random.default_rng(0)
NOISE = RNG.integers(20, 200, (24, 30, 3)).astype(np.uint8)
SMOOTH = np.asarray(Image.fromarray(NOISE[:6, :6]).resize((64, 48), Image.Resampling.BICUBIC))


def enhanced(kind):
    return lambda picture, strength: kind(picture).enhance(1 + 0.9 * strength)


EXACT = {
    "auto_contrast": lambda picture, strength: ImageOps.autocontrast(picture),
    "equalize": lambda picture, strength: ImageOps.equalize(picture),
    "solarize": lambda picture, strength: ImageOps.solarize(picture, 256 * (1 - abs(strength))),
    "posterize": lambda picture, strength: ImageOps.posterize(picture, 8 - int(4 * abs(strength))),
    "color": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("pixels", [NOISE, SMOOTH], ids=["noise", "smooth"])
def test_colours_are_those_of_pillow(name, strength, pixels):
    """Within the rounding of one value."""
    found = getattr(operations, name)(tf.constant(pixels), tf.constant(strength)).numpy()
    expected = np.asarray(EXACT[name](Image.fromarray(pixels), strength))
    assert np.abs(found.astype(int) - expected).max() <= 1


MOVES = {
    "rotate": lambda picture, s: picture.rotate(30 * s, Image.Resampling.BILINEAR),
    "shear_x": lambda picture, s: about_centre(picture, 1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda picture, s: about_centre(picture, 1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda picture, s: about_centre(picture, 1, 0, 0.45 * s * picture.width, 0, 1, 0),
    "translate_y": lambda picture, s: about_centre(picture, 1, 0, 0, 0, 1, 0.45 * s * picture.height),
}


def about_centre(picture, a, b, c, d, e, f):
    """Pillow's transform, with coordinates from the picture's centre."""
    x, y = picture.width / 2, picture.height / 2
    matrix = (a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("strength", [-1.0, -0.3, 0.0, 0.5, 1.0])
def test_moves_are_those_of_pillow(name, strength):
    """Where the picture's own pixels are; beyond its edge Pillow is black and ours goes on."""
    found = getattr(operations, name)(tf.constant(SMOOTH), tf.constant(strength)).numpy().astype(int)
    inside = np.asarray(MOVES[name](Image.new("L", (64, 48), 255), strength)) == 255
    inside[[0, -1]] = inside[:, [0, -1]] = False
    expected = np.asarray(MOVES[name](Image.fromarray(SMOOTH), strength)).astype(int)
    assert inside.mean() > 0.3
    assert np.abs(found - expected)[inside].max() <= 3
    assert found.min() >= SMOOTH.min()


def test_an_even_channel_has_no_contrast_to_stretch():
    """Neither divides by zero."""
    even = tf.constant(np.full((4, 4, 3), 77, np.uint8))
    for name in ("auto_contrast", "equalize"):
        assert np.array_equal(getattr(operations, name)(even, tf.constant(1.0)), even)
