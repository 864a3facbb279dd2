"""Pictures, boxes and masks stay together, whatever moves them."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.contracts.test_augments import SINGLE
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
MOVES = (*WINDOWS, "crop", "rotate(degrees=40)")
AUGMENT = {spec: AUGMENTS.build(parse_spec(spec)) for spec in (*MOVES, "rand_augment", "erase", "color", "augmix")}


def sample(height, width, top, left, bottom, right, round_one=False):
    """One object of class 1, red on black: its mask, its box, and the picture whose red is the mask."""
    y, x = np.mgrid[:height, :width] + 0.5
    if round_one:
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
def samples(draw, round_one):
    height, width = draw(st.integers(16, 48)), draw(st.integers(16, 48))
    top, left = draw(st.integers(0, height - 5)), draw(st.integers(0, width - 5))
    bottom, right = draw(st.integers(top + 5, height)), draw(st.integers(left + 5, width))
    return sample(height, width, top, left, bottom, right, round_one and draw(st.booleans()))


def chained(one, specs, seed):
    for position, spec in enumerate(specs):
        one = AUGMENT[spec](one, tf.constant([seed, position], tf.int64))
    return one


def extent(inside):
    """Left, top, right and bottom in pixels."""
    places = np.argwhere(inside)
    (top, left), (bottom, right) = places.min(0), places.max(0) + 1
    return np.array([left, top, right, bottom])


def in_pixels(one):
    height, width = one["image"].shape[:2]
    return one["boxes"].numpy() * [width, height, width, height]


def check_whole(one):
    """What holds of any sample: one shape, and boxes in order within the picture, each with its class."""
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
@given(samples(True), st.lists(st.sampled_from([*MOVES, "rand_augment", "erase", "color"]), max_size=4), SEEDS)
def test_a_box_encloses_its_object(one, specs, seed):
    """After any chain no pixel of the object is outside of its box, but for the rounding of one."""
    moved = chained(one, specs, seed)
    check_whole(moved)
    inside = moved["mask"].numpy()[..., 0] == 1
    if len(moved["boxes"]) and inside.any():
        left, top, right, bottom = in_pixels(moved)[0]
        own = extent(inside)
        assert (own[:2] >= np.array([left, top]) - 1).all()
        assert (own[2:] <= np.array([right, bottom]) + 1).all()


@settings(deadline=None, max_examples=60)
@given(samples(False), st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=4), SEEDS)
def test_windows_are_exact(one, specs, seed):
    """Where no pixel is interpolated, a rectangle's box is the extent of its mask, and the picture is its mask."""
    moved = chained(one, specs, seed)
    check_whole(moved)
    mask, pixels = moved["mask"].numpy()[..., 0], moved["image"].numpy()
    assert np.array_equal(mask == 1, (pixels == (255, 0, 0)).all(-1))
    assert np.array_equal(mask == 255, (pixels == 127).all(-1))
    if len(moved["boxes"]):
        assert in_pixels(moved)[0] == pytest.approx(extent(mask == 1), abs=1e-3)
    else:
        assert "scale_jitter(scale=(0.3, 0.6))" in specs or not (mask == 1).any()


FEW = st.lists(st.sampled_from((*WINDOWS, "crop")), max_size=2)


@settings(deadline=None, max_examples=60)
@given(samples(True), FEW, FEW, SEEDS)
@example(sample(45, 24, 0, 0, 43, 24, True), [], ["crop"], 1721)  # an edge just beyond a corner
def test_picture_and_mask_move_together(one, before, after, seed):
    """The mask is the picture's red wherever it tells anything, but at the edges, which are interpolated."""
    moved = chained(one, [*before, "rotate(degrees=40)", *after], seed)
    mask, red = moved["mask"].numpy()[..., 0], moved["image"].numpy()[..., 0]
    # What a window cuts off may be an edge.
    around = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2, constant_values=255), (5, 5))
    even = around.min((-1, -2)) == around.max((-1, -2))
    told = even & (mask != 255)
    assert np.array_equal(red[told] > 127, mask[told] == 1)


@pytest.mark.parametrize("name", SINGLE)
def test_every_augment_keeps_them_together(name):
    """Alone and in tf.data; boxes and masks change nothing in the picture, which AugMix then does not move."""
    augment, one = AUGMENTS.build(Spec(name)), sample(24, 36, 5, 10, 20, 22)
    alone = {key: one[key] for key in ("image", "label")}
    for seed in range(8):
        seeds = tf.constant([seed, 3], tf.int64)
        moved = augment(one, seeds)
        check_whole(moved)
        if name != "augmix":
            assert np.array_equal(augment(alone, seeds)["image"], moved["image"])
    piped = tf.data.Dataset.range(8).map(lambda seed: augment(one, tf.stack([seed, tf.constant(3, tf.int64)])))
    last = list(piped.as_numpy_iterator())[-1]
    assert np.allclose(last["boxes"], moved["boxes"], atol=1e-5)
    assert np.mean(last["mask"] != moved["mask"]) < 0.02


@pytest.mark.parametrize("name", ["augmix", "color", "gray", "blur", "erase"])
def test_what_moves_nothing(name):
    """Colours, noise in a rectangle, and AugMix beside boxes leave places as they are."""
    one = sample(24, 36, 5, 10, 20, 22)
    for seed in range(8):
        moved = AUGMENTS.build(Spec(name))(one, tf.constant([seed, 3], tf.int64))
        assert np.array_equal(moved["mask"], one["mask"])
        assert np.array_equal(moved["boxes"], one["boxes"])


def test_rand_augment_moves_its_boxes():
    """A share of its operations moves, and then the box as well."""
    one = sample(24, 36, 5, 10, 20, 22)
    changed = [
        not np.allclose(chained(one, ["rand_augment"], seed)["boxes"], one["boxes"], atol=1e-5) for seed in range(30)
    ]
    assert 10 <= sum(changed) <= 28  # 5 of 13 operations move, of which two are drawn: 62 percent


def test_a_mask_that_is_still_a_file_stays():
    """A column of the source is no mask before it is decoded."""
    for spec in MOVES:
        one = {"image": tf.zeros((8, 8, 3), tf.uint8), "mask": tf.constant("masks/1.png")}
        assert AUGMENT[spec](one, tf.constant([1, 2], tf.int64))["mask"] == b"masks/1.png"


def boxes(*values, crowd=()):
    return {
        "image": tf.zeros((100, 200, 3), tf.uint8),
        "boxes": tf.constant(values, tf.float32),
        "classes": tf.range(len(values)),
        "crowd": tf.constant([place in crowd for place in range(len(values))]),
    }


def test_mirrored_by_hand():
    """Left becomes right; top stays."""
    found = geometry.flip_horizontal(boxes((0.1, 0.2, 0.4, 0.6)))["boxes"]
    assert found.numpy() == pytest.approx(np.array([[0.6, 0.2, 0.9, 0.6]]))


def test_windows_by_hand():
    """A window of 50 by 100 pixels at row 20 and column 40 of 100 by 200: all, 24, 26 and no percent of a box stay."""
    inside = (0.2, 0.2, 0.7, 0.7)  # the window itself
    a, b, out = (0.124, 0.3, 0.224, 0.5), (0.126, 0.3, 0.226, 0.5), (0.0, 0.0, 0.1, 0.1)
    window = tf.constant([20, 40]), tf.constant([50, 100])
    found = geometry.crop_window(boxes(inside, a, b, out), *window)
    assert found["classes"].numpy().tolist() == [0, 1, 2]
    assert found["crowd"].numpy().tolist() == [False, True, False]
    expected = [[0, 0, 1, 1], [0, 0.2, 0.048, 0.6], [0, 0.2, 0.052, 0.6]]
    assert found["boxes"].numpy() == pytest.approx(np.array(expected), abs=1e-6)
    kept = geometry.crop_window(boxes(inside, a, b, out), *window, min_visible=0.0)
    assert kept["crowd"].numpy().tolist() == [False, False, False]
    crowds = geometry.crop_window(boxes(inside, a, b, out, crowd=(1, 3)), *window)
    assert crowds["classes"].numpy().tolist() == [0, 1, 2]
    assert crowds["crowd"].numpy().tolist() == [False, True, False]


def test_windows_beyond_the_picture_by_hand():
    """Twice as long and wide, the picture in its lower right: grey, untold, and boxes half as large."""
    one = boxes((0.0, 0.0, 1.0, 0.5)) | {"mask": tf.ones((100, 200, 1), tf.uint8)}
    found = geometry.crop_window(one, tf.constant([-100, -200]), tf.constant([200, 400]))
    assert found["boxes"].numpy() == pytest.approx(np.array([[0.5, 0.5, 1.0, 0.75]]))
    assert np.array_equal(found["image"][100:, 200:], one["image"])
    assert (found["image"].numpy()[:100] == 127).all()
    assert (found["mask"].numpy()[:, :200] == 255).all()
    assert (found["mask"].numpy()[100:, 200:] == 1).all()


def test_turns_by_hand():
    """A quarter counter-clockwise takes the upper left corner to the lower left one."""
    one = boxes((0.0, 0.0, 0.5, 0.25)) | {"image": tf.zeros((60, 60, 3), tf.uint8)}
    found = geometry.warp_annotations(one, make_rotation_matrix(tf.constant(1.0), tf.constant([60, 60]), 90.0))["boxes"]
    assert found.numpy() == pytest.approx(np.array([[0.0, 0.5, 0.25, 1.0]]), abs=1e-6)
    eighth = geometry.warp_annotations(
        one | {"boxes": tf.constant([[0.4, 0.4, 0.6, 0.6]])}, make_rotation_matrix(0.5, None, 90.0)
    )["boxes"]
    told = geometry.warp_annotations(
        one | {"mask": tf.ones((60, 60, 1), tf.uint8)}, make_rotation_matrix(0.5, None, 90.0)
    )["mask"].numpy()
    assert told[0, 0] == told[-1, 0] == 255
    assert told[30, 30] == told[0, 30] == told[59, 30] == 1
    half = 0.1 * math.sqrt(2)
    assert eighth.numpy() == pytest.approx(np.array([[0.5 - half] * 2 + [0.5 + half] * 2]), abs=1e-6)


def test_zoom_keeps_proportions_and_its_range():
    """Its factor is within the range, both sides alike, and smaller pictures are whole."""
    one, factors = sample(40, 60, 5, 10, 20, 22), []
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
def test_ranges_are_checked(spec):
    """A picture cannot be shown at no size, nor less of an object than nothing."""
    with pytest.raises(UserError, match="out of range"):
        AUGMENTS.build(parse_spec(spec))
