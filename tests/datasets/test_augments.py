"""Effects of the augments of single images."""

import numpy as np
import pytest
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.types.components import AUGMENTS

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def apply(spec, seed, pixels=PIXELS):
    augment = AUGMENTS.build(parse_spec(spec))
    return augment({"image": tf.constant(pixels), "label": tf.constant("x")}, tf.constant([seed, 7], tf.int64))


def test_flip_has_the_stated_probability():
    """The result is the image or its mirror image, with the stated probability."""
    num_flipped = 0
    for seed in range(300):
        result = apply("flip(probability=0.3)", seed)["image"].numpy()
        num_flipped += np.array_equal(result, PIXELS[:, ::-1])
        assert np.array_equal(result, PIXELS) or np.array_equal(result, PIXELS[:, ::-1])
    assert 60 <= num_flipped <= 120  # 90 expected, standard deviation 8


def test_crop_has_the_stated_area():
    """The result is a part of the image with area and aspect ratio in the stated ranges."""
    for seed in range(50):
        window = apply("random_resized_crop(scale=(0.3, 0.6), ratio=(0.8, 1.25))", seed)["image"].numpy()
        height, width, _ = window.shape
        assert 0.25 <= height * width / 600 <= 0.68
        views = np.lib.stride_tricks.sliding_window_view(PIXELS, (height, width, 3))
        assert (views == window).all(axis=(-1, -2, -3)).any()


def test_color_jitter_of_zero_changes_nothing():
    """With all ranges 0, every factor is 1."""
    assert np.array_equal(apply("color_jitter(brightness=0, contrast=0, saturation=0)", 3)["image"], PIXELS)


@pytest.mark.parametrize(
    "spec",
    [
        "flip(probability=2)",
        "random_resized_crop(scale=(0.9, 0.3))",
        "random_resized_crop(scale=(0, 1))",
        "color_jitter(contrast=-1)",
    ],
)
def test_options_out_of_range_are_rejected(spec):
    """A probability of 2 is an error."""
    with pytest.raises(UserError, match=r"^Options of \w+\(\) are out of range: .*\. Expected: "):
        AUGMENTS.build(parse_spec(spec))
