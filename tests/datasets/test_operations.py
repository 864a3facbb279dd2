"""Image operations of RandAugment and AugMix against Pillow."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from tfx_finetune.datasets.augments import operations

RNG = np.random.default_rng(0)
NOISE = RNG.integers(20, 200, (24, 30, 3)).astype(np.uint8)
SMOOTH = np.asarray(Image.fromarray(NOISE[:6, :6]).resize((64, 48), Image.Resampling.BICUBIC))


def enhance(enhancer):
    return lambda image, strength: enhancer(image).enhance(1 + 0.9 * strength)


EXACT = {
    "auto_contrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "solarize": lambda image, strength: ImageOps.solarize(image, 256 * (1 - abs(strength))),
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - int(4 * abs(strength))),
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "brightness": enhance(ImageEnhance.Brightness),
    "sharpness": enhance(ImageEnhance.Sharpness),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("pixels", [NOISE, SMOOTH], ids=["noise", "smooth"])
def test_color_operations_equal_those_of_pillow(name, strength, pixels):
    """Values differ by at most 1, from rounding."""
    result = getattr(operations, name)(tf.constant(pixels), tf.constant(strength)).numpy()
    expected = np.asarray(EXACT[name](Image.fromarray(pixels), strength))
    assert np.abs(result.astype(int) - expected).max() <= 1


MOVES = {
    "rotate": lambda image, s: image.rotate(30 * s, Image.Resampling.BILINEAR),
    "shear_x": lambda image, s: transform_about_center(image, 1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda image, s: transform_about_center(image, 1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda image, s: transform_about_center(image, 1, 0, 0.45 * s * image.width, 0, 1, 0),
    "translate_y": lambda image, s: transform_about_center(image, 1, 0, 0, 0, 1, 0.45 * s * image.height),
}


def transform_about_center(image, a, b, c, d, e, f):
    """Apply Pillow's affine transform with coordinates relative to the image center."""
    x, y = image.width / 2, image.height / 2
    matrix = (a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("strength", [-1.0, -0.3, 0.0, 0.5, 1.0])
def test_geometric_operations_equal_those_of_pillow(name, strength):
    """Pixels from inside the image agree; beyond its edge, Pillow is black and the operations repeat the edge."""
    result = getattr(operations, name)(tf.constant(SMOOTH), tf.constant(strength)).numpy().astype(int)
    inside = np.asarray(MOVES[name](Image.new("L", (64, 48), 255), strength)) == 255
    inside[[0, -1]] = inside[:, [0, -1]] = False
    expected = np.asarray(MOVES[name](Image.fromarray(SMOOTH), strength)).astype(int)
    assert inside.mean() > 0.3
    assert np.abs(result - expected)[inside].max() <= 3
    assert result.min() >= SMOOTH.min()


def test_a_constant_channel_does_not_change():
    """Contrast stretching and equalization do not divide by zero."""
    constant = tf.constant(np.full((4, 4, 3), 77, np.uint8))
    for name in ("auto_contrast", "equalize"):
        assert np.array_equal(getattr(operations, name)(constant, tf.constant(1.0)), constant)
