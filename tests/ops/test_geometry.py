"""Geometric transforms keep an image, its boxes and its mask aligned."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.contracts.test_augments import SINGLE_IMAGE
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets.augments.operations import make_rotation_matrix
from tfx_finetune.ops import geometry
from tfx_finetune.types.components import AUGMENTS

WINDOWS = (
    "flip",
    "random_resized_crop(scale=(0.3, 1.0), min_visible=0)",
    "scale_jitter(min_visible=0)",
    "scale_jitter(scale=(0.3, 0.6))",
)
MOVES = (*WINDOWS, "random_resized_crop", "rotate(degrees=40)")
PIXELWISE = ("random_erasing", "color_jitter")
AUGMENT = {spec: AUGMENTS.build(parse_spec(spec)) for spec in (*MOVES, "rand_augment", *PIXELWISE, "augmix")}


def make_sample(height, width, top, left, bottom, right, is_ellipse=False):
    """Return a red object on black with its box and a mask that is 1 where the image is red."""
    y, x = np.mgrid[:height, :width] + 0.5
    if is_ellipse:
        inside = ((2 * y - top - bottom) / (bottom - top)) ** 2 + ((2 * x - left - right) / (right - left)) ** 2 <= 1
    else:
        inside = (top <= y) & (y < bottom) & (left <= x) & (x < right)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[inside] = (255, 0, 0)
    return {
        "image": tf.constant(pixels),
        "mask": tf.constant(inside[..., None].astype(np.uint8)),
        "boxes": tf.constant([[left / width, top / height, right / width, bottom / height]], tf.float32),
        "classes": tf.constant([4]),
        "crowd": tf.constant([False]),
        "label": tf.constant("x"),
    }


@st.composite
def samples(draw, has_ellipses):
    height, width = draw(st.integers(16, 48)), draw(st.integers(16, 48))
    top, left = draw(st.integers(0, height - 5)), draw(st.integers(0, width - 5))
    bottom, right = draw(st.integers(top + 5, height)), draw(st.integers(left + 5, width))
    return make_sample(height, width, top, left, bottom, right, has_ellipses and draw(st.booleans()))


def apply_chain(sample, specs, seed):
    for position, spec in enumerate(specs):
        sample = AUGMENT[spec](sample, tf.constant([seed, position], tf.int64))
    return sample


def bounding_box(mask):
    """Return left, top, right and bottom of the true pixels."""
    pixels = np.argwhere(mask)
    (top, left), (bottom, right) = pixels.min(0), pixels.max(0) + 1
    return np.array([left, top, right, bottom])


def boxes_in_pixels(sample):
    height, width = sample["image"].shape[:2]
    return sample["boxes"].numpy() * [width, height, width, height]


def check_consistent(one):
    """Check shapes and types, and that the boxes are ordered, within the image and have a class each."""
    assert one["mask"].shape == (*one["image"].shape[:2], 1)
    assert one["image"].dtype == one["mask"].dtype == tf.uint8
    boxes = one["boxes"].numpy()
    assert boxes.dtype == np.float32
    assert ((boxes >= 0) & (boxes <= 1)).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert one["classes"].shape == one["crowd"].shape == (len(boxes),)
    assert one["label"] == b"x"


SEEDS = st.integers(0, 10**6)


@settings(deadline=None, max_examples=60)
@given(samples(True), st.lists(st.sampled_from([*MOVES, "rand_augment", *PIXELWISE]), max_size=4), SEEDS)
def test_a_box_encloses_its_object(one, specs, seed):
    """After any chain of augments, no pixel of the object is more than one pixel outside its box."""
    moved = apply_chain(one, specs, seed)
    check_consistent(moved)
    inside = moved["mask"].numpy()[..., 0] == 1
    if len(moved["boxes"]) and inside.any():
        left, top, right, bottom = boxes_in_pixels(moved)[0]
        extent = bounding_box(inside)
        assert (extent[:2] >= np.array([left, top]) - 1).all()
        assert (extent[2:] <= np.array([right, bottom]) + 1).all()


@settings(deadline=None, max_examples=60)
@given(samples(False), st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=4), SEEDS)
def test_crops_and_flips_are_exact(one, specs, seed):
    """Without interpolation, a box is the bounding box of its mask, and the mask is 1 where the image is red."""
    moved = apply_chain(one, specs, seed)
    check_consistent(moved)
    mask, pixels = moved["mask"].numpy()[..., 0], moved["image"].numpy()
    assert np.array_equal(mask == 1, (pixels == (255, 0, 0)).all(-1))
    assert np.array_equal(mask == 255, (pixels == 127).all(-1))
    if len(moved["boxes"]):
        assert boxes_in_pixels(moved)[0] == pytest.approx(bounding_box(mask == 1), abs=1e-3)
    else:
        assert "scale_jitter(scale=(0.3, 0.6))" in specs or not (mask == 1).any()


SHORT_CHAINS = st.lists(st.sampled_from((*WINDOWS, "random_resized_crop")), max_size=2)


@settings(deadline=None, max_examples=60)
@given(samples(True), SHORT_CHAINS, SHORT_CHAINS, SEEDS)
@example(make_sample(45, 24, 0, 0, 43, 24, True), [], ["random_resized_crop"], 1721)  # an edge just beyond a corner
def test_image_and_mask_move_together(one, before, after, seed):
    """Away from edges, which are interpolated, the mask is 1 where the image is red, unless it is unlabeled."""
    moved = apply_chain(one, [*before, "rotate(degrees=40)", *after], seed)
    mask, red = moved["mask"].numpy()[..., 0], moved["image"].numpy()[..., 0]
    # A crop may have removed an edge.
    neighborhood = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2, constant_values=255), (5, 5))
    is_uniform = neighborhood.min((-1, -2)) == neighborhood.max((-1, -2))
    is_labeled = is_uniform & (mask != 255)
    assert np.array_equal(red[is_labeled] > 127, mask[is_labeled] == 1)


@pytest.mark.parametrize("name", SINGLE_IMAGE)
def test_every_augment_keeps_annotations_aligned(name):
    """Eagerly and in tf.data; boxes and masks do not change the resulting image, except for AugMix."""
    augment, one = AUGMENTS.build(Spec(name)), make_sample(24, 36, 5, 10, 20, 22)
    image_only = {key: one[key] for key in ("image", "label")}
    for seed in range(8):
        seeds = tf.constant([seed, 3], tf.int64)
        moved = augment(one, seeds)
        check_consistent(moved)
        if name != "augmix":
            assert np.array_equal(augment(image_only, seeds)["image"], moved["image"])
    piped = tf.data.Dataset.range(8).map(lambda seed: augment(one, tf.stack([seed, tf.constant(3, tf.int64)])))
    last = list(piped.as_numpy_iterator())[-1]
    assert np.allclose(last["boxes"], moved["boxes"], atol=1e-5)
    assert np.mean(last["mask"] != moved["mask"]) < 0.02


@pytest.mark.parametrize("name", ["augmix", "color_jitter", "random_grayscale", "gaussian_blur", "random_erasing"])
def test_photometric_augments_keep_annotations(name):
    """Photometric augments, and AugMix if there are boxes, do not change mask and boxes."""
    one = make_sample(24, 36, 5, 10, 20, 22)
    for seed in range(8):
        moved = AUGMENTS.build(Spec(name))(one, tf.constant([seed, 3], tf.int64))
        assert np.array_equal(moved["mask"], one["mask"])
        assert np.array_equal(moved["boxes"], one["boxes"])


def test_rand_augment_moves_boxes():
    """The geometric operations of RandAugment move the box as well."""
    one = make_sample(24, 36, 5, 10, 20, 22)
    is_moved = [
        not np.allclose(apply_chain(one, ["rand_augment"], seed)["boxes"], one["boxes"], atol=1e-5)
        for seed in range(30)
    ]
    assert 10 <= sum(is_moved) <= 28  # 5 of 13 operations move pixels; with two operations, 62 percent are expected


def test_a_mask_that_is_not_decoded_does_not_change():
    """The path of a mask file in the column of a source is kept."""
    for spec in MOVES:
        one = {"image": tf.zeros((8, 8, 3), tf.uint8), "mask": tf.constant("masks/1.png")}
        assert AUGMENT[spec](one, tf.constant([1, 2], tf.int64))["mask"] == b"masks/1.png"


def sample_with_boxes(*values, crowd=()):
    return {
        "image": tf.zeros((100, 200, 3), tf.uint8),
        "boxes": tf.constant(values, tf.float32),
        "classes": tf.range(len(values)),
        "crowd": tf.constant([index in crowd for index in range(len(values))]),
    }


def test_flipped_boxes_equal_values_by_hand():
    """Left becomes right; top and bottom stay."""
    flipped = geometry.flip_horizontal(sample_with_boxes((0.1, 0.2, 0.4, 0.6)))["boxes"]
    assert flipped.numpy() == pytest.approx(np.array([[0.6, 0.2, 0.9, 0.6]]))


def test_cropped_boxes_equal_values_by_hand():
    """A crop of 50 x 100 pixels at row 20 and column 40 of 100 x 200 keeps 100, 24, 26 and 0 percent of four boxes."""
    inside = (0.2, 0.2, 0.7, 0.7)  # the window itself
    a, b, out = (0.124, 0.3, 0.224, 0.5), (0.126, 0.3, 0.226, 0.5), (0.0, 0.0, 0.1, 0.1)
    window = tf.constant([20, 40]), tf.constant([50, 100])
    cropped = geometry.crop_window(sample_with_boxes(inside, a, b, out), *window)
    assert cropped["classes"].numpy().tolist() == [0, 1, 2]
    assert cropped["crowd"].numpy().tolist() == [False, True, False]
    expected = [[0, 0, 1, 1], [0, 0.2, 0.048, 0.6], [0, 0.2, 0.052, 0.6]]
    assert cropped["boxes"].numpy() == pytest.approx(np.array(expected), abs=1e-6)
    without_crowds = geometry.crop_window(sample_with_boxes(inside, a, b, out), *window, min_visible=0.0)
    assert without_crowds["crowd"].numpy().tolist() == [False, False, False]
    crowds = geometry.crop_window(sample_with_boxes(inside, a, b, out, crowd=(1, 3)), *window)
    assert crowds["classes"].numpy().tolist() == [0, 1, 2]
    assert crowds["crowd"].numpy().tolist() == [False, True, False]


def test_a_window_beyond_the_image_is_padded():
    """In a window of twice the size with the image at the lower right, the rest is gray and unlabeled."""
    one = sample_with_boxes((0.0, 0.0, 1.0, 0.5)) | {"mask": tf.ones((100, 200, 1), tf.uint8)}
    padded = geometry.crop_window(one, tf.constant([-100, -200]), tf.constant([200, 400]))
    assert padded["boxes"].numpy() == pytest.approx(np.array([[0.5, 0.5, 1.0, 0.75]]))
    assert np.array_equal(padded["image"][100:, 200:], one["image"])
    assert (padded["image"].numpy()[:100] == 127).all()
    assert (padded["mask"].numpy()[:, :200] == 255).all()
    assert (padded["mask"].numpy()[100:, 200:] == 1).all()


def test_rotated_annotations_equal_values_by_hand():
    """A rotation of 90 degrees moves the upper left corner to the lower left one; corners of the mask are unlabeled."""
    one = sample_with_boxes((0.0, 0.0, 0.5, 0.25)) | {"image": tf.zeros((60, 60, 3), tf.uint8)}
    matrix = make_rotation_matrix(tf.constant(1.0), tf.constant([60, 60]), 90.0)
    rotated_90 = geometry.warp_annotations(one, matrix)["boxes"]
    assert rotated_90.numpy() == pytest.approx(np.array([[0.0, 0.5, 0.25, 1.0]]), abs=1e-6)
    rotated_45 = geometry.warp_annotations(
        one | {"boxes": tf.constant([[0.4, 0.4, 0.6, 0.6]])}, make_rotation_matrix(0.5, None, 90.0)
    )["boxes"]
    mask = geometry.warp_annotations(
        one | {"mask": tf.ones((60, 60, 1), tf.uint8)}, make_rotation_matrix(0.5, None, 90.0)
    )["mask"].numpy()
    assert mask[0, 0] == mask[-1, 0] == 255
    assert mask[30, 30] == mask[0, 30] == mask[59, 30] == 1
    half = 0.1 * math.sqrt(2)
    assert rotated_45.numpy() == pytest.approx(np.array([[0.5 - half] * 2 + [0.5 + half] * 2]), abs=1e-6)


def test_scale_jitter_keeps_the_aspect_ratio_and_its_range():
    """The factor is within the range and equal for both sides, and a shrunk image is complete."""
    one, factors = make_sample(40, 60, 5, 10, 20, 22), []
    for seed in range(40):
        height, width = AUGMENT["scale_jitter(min_visible=0)"](one, tf.constant([seed, 3], tf.int64))["image"].shape[:2]
        factors.append(40 / height)
        assert width / height == pytest.approx(1.5, abs=0.05)
        small = AUGMENT["scale_jitter(scale=(0.3, 0.6))"](one, tf.constant([seed, 3], tf.int64))
        assert np.count_nonzero(small["mask"] == 1) == 15 * 12
        assert len(small["boxes"]) == 1
    assert 0.49 < min(factors) < 0.7
    assert 1.4 < max(factors) < 2.06


@pytest.mark.parametrize(
    "spec",
    [
        "scale_jitter(scale=(0, 1))",
        "scale_jitter(scale=(2, 1))",
        "scale_jitter(min_visible=2)",
        "random_resized_crop(min_visible=-1)",
    ],
)
def test_options_out_of_range_are_rejected(spec):
    """A scale of 0 and a negative visible fraction are errors."""
    with pytest.raises(UserError, match="out of range"):
        AUGMENTS.build(parse_spec(spec))
