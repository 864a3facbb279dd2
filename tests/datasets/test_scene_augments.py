"""Multi-sample augments: positions of pixels, masks and boxes in the combined image."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.test_augments import MULTI_SAMPLE
from tests.ops.test_geometry import (
    MOVES,
    PIXELWISE,
    apply_chain,
    bounding_box,
    boxes_in_pixels,
    check_consistent,
    make_sample,
    samples,
)
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets.multi_sample import apply_multi_sample
from tfx_finetune.types.components import AUGMENTS
from tfx_finetune.types.localization import IGNORE_INDEX

SEEDS = st.integers(0, 10**6)
CLASS_TABLES = {
    "things": tf.constant([False, True, True, True, True] + [False] * 251),
    # The object of make_sample has class 4 and mask value 1.
    "values": tf.constant([-1, 2, 3, -1, 1]),
}


def make_seed(number):
    return tf.constant([number, 3], tf.int64)


def recolor(sample, color, value, label):
    """Return a sample whose object has another color, mask value and class."""
    inside = sample["mask"].numpy() == 1
    return sample | {
        "image": tf.constant(np.where(inside, np.array(color, np.uint8), 0).astype(np.uint8)),
        "mask": tf.constant(np.where(inside, value, 0).astype(np.uint8)),
        "classes": tf.constant([label]),
    }


@settings(deadline=None, max_examples=40)
@given(st.lists(samples(True), min_size=4, max_size=4), SEEDS)
def test_a_mosaic_keeps_annotations_aligned(inputs, seed):
    """The canvas is filled, has the size of the first image, and every object pixel is in some box."""
    result = AUGMENTS.build(parse_spec("mosaic(min_visible=0)")).apply(inputs[0], inputs[1:], make_seed(seed))
    check_consistent(result)
    assert result["image"].shape == inputs[0]["image"].shape
    mask, red = result["mask"].numpy()[..., 0], result["image"].numpy()[..., 0]
    assert not (mask == IGNORE_INDEX).any()
    neighborhood = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2, mode="edge"), (5, 5))
    is_uniform = neighborhood.min((-1, -2)) == neighborhood.max((-1, -2))
    # Interpolation differs where two tiles meet.
    assert np.mean((red > 127)[is_uniform] == (mask == 1)[is_uniform]) > 0.97
    covered = np.zeros(mask.shape, bool)
    for left, top, right, bottom in boxes_in_pixels(result):
        box = (
            slice(max(int(top - 1), 0), int(np.ceil(bottom + 1))),
            slice(max(int(left - 1), 0), int(np.ceil(right + 1))),
        )
        covered[box] = True
    assert covered[mask == 1].all()
    assert len(result["boxes"]) <= 4


def test_a_mosaic_equals_values_by_hand():
    """Four images of one color with a box each are tiled around the center."""
    inputs = [
        {
            "image": tf.fill((40, 60, 3), tf.constant(value, tf.uint8)),
            "boxes": tf.constant([[0.0, 0.0, 1.0, 1.0]]),
            "classes": tf.constant([value]),
            "crowd": tf.constant([value == 4]),
        }
        for value in (1, 2, 3, 4)
    ]
    mosaic = AUGMENTS.build(parse_spec("mosaic(center=(0.5, 0.5), min_visible=0)"))
    result = mosaic.apply(inputs[0], inputs[1:], make_seed(0))
    assert result["image"][:20, :30, 0].numpy().ravel().tolist() == [1] * 600
    assert [int(result["image"][y, x, 0]) for y in (0, 20) for x in (30, 59)] == [2, 2, 4, 4]
    assert int(result["image"][39, 0, 0]) == 3
    expected = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    assert result["boxes"].numpy() == pytest.approx(np.array(expected))
    assert result["classes"].numpy().tolist() == [1, 2, 3, 4]
    assert result["crowd"].numpy().tolist() == [False, False, False, True]
    cropped = AUGMENTS.build(parse_spec("mosaic(min_visible=1)")).apply(inputs[0], inputs[1:], make_seed(1))
    assert cropped["crowd"].numpy().tolist() == [True] * 4  # no object is completely visible


@settings(deadline=None, max_examples=40)
@given(samples(True), samples(True), SEEDS)
def test_pasted_objects_have_their_pixels_and_boxes(one, other, seed):
    """Image and mask agree on which object is visible, and boxes enclose the visible pixels."""
    green = recolor(other, (0, 255, 0), 2, 1)
    paste = AUGMENTS.build(parse_spec("copy_paste(scale=(1, 1), min_visible=0)"))
    result = paste.apply(one | CLASS_TABLES, [green], make_seed(seed))
    check_consistent(result)
    mask, pixels = result["mask"].numpy()[..., 0], result["image"].numpy()
    old_mask, unchanged = one["mask"].numpy()[..., 0], mask != 2
    assert np.array_equal(mask[unchanged], old_mask[unchanged])
    assert np.array_equal(pixels[unchanged], one["image"].numpy()[unchanged])
    boxes = dict(zip(result["classes"].numpy().tolist(), boxes_in_pixels(result), strict=True))
    assert (1 in boxes) == (mask == 2).any()
    assert (4 in boxes) == (mask == 1).any()
    if 1 in boxes:
        assert boxes[1] == pytest.approx(bounding_box(mask == 2), abs=1e-3)
        neighborhood = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2, mode="edge"), (5, 5))
        is_inner = (neighborhood.min((-1, -2)) == 2) & (neighborhood.max((-1, -2)) == 2)
        assert (pixels[is_inner][:, 1] > 100).all()
    if 4 in boxes and (mask == 1).sum() < (old_mask == 1).sum():
        assert boxes[4] == pytest.approx(bounding_box(mask == 1), abs=1e-3)


CHAINS = st.lists(st.sampled_from([*MOVES, "rand_augment", *PIXELWISE]), max_size=3)
COMBINATIONS = ("mosaic(min_visible=0)", "copy_paste(scale=(1, 1), min_visible=0)")


@settings(deadline=None, max_examples=60)
@given(st.lists(samples(True), min_size=4, max_size=4), st.sampled_from(COMBINATIONS), CHAINS, CHAINS, SEEDS)
def test_boxes_enclose_their_objects_in_any_chain(inputs, spec, before, after, seed):
    """With augments before and after the combination, no object is more than one pixel outside its box."""
    augment = AUGMENTS.build(parse_spec(spec))
    others = [recolor(sample, (0, 255, 0), 1 + label, label) for label, sample in enumerate(inputs[1:], 1)]
    tables = CLASS_TABLES | {"values": tf.constant([-1, 2, 3, 4, 1])}
    sample = apply_chain(inputs[0], before, seed) | tables
    result = augment.apply(sample, others[: augment.num_samples], make_seed(seed))
    result = apply_chain({name: value for name, value in result.items() if name not in tables}, after, seed + 1)
    check_consistent(result)
    mask = result["mask"].numpy()[..., 0]
    for label, box in zip(result["classes"].numpy().tolist(), boxes_in_pixels(result), strict=True):
        value = tables["values"].numpy()[label]
        if (mask == value).any():
            extent = bounding_box(mask == value)
            assert (extent[:2] >= box[:2] - 1).all()
            assert (extent[2:] <= box[2:] + 1).all()


def make_squares(value, label, *corners, crowd=False):
    """Return an image of 100 x 200 pixels with squares of 20 x 20 pixels at (left, top)."""
    mask = np.zeros((100, 200, 1), np.uint8)
    for left, top in corners:
        mask[top : top + 20, left : left + 20] = value
    return CLASS_TABLES | {
        "image": tf.constant(np.repeat(mask * 50, 3, -1)),
        "mask": tf.constant(mask),
        "boxes": tf.constant([[x / 200, y / 100, (x + 20) / 200, (y + 20) / 100] for x, y in corners], tf.float32),
        "classes": tf.fill((len(corners),), label),
        "crowd": tf.fill((len(corners),), crowd),
    }


def paste_all(sample, other, spec="copy_paste(scale=(1, 1))"):
    """Return the result of the first seed that pastes an object."""
    augment = AUGMENTS.build(parse_spec(spec))
    for number in range(60):
        result = augment.apply(sample, [other], make_seed(number))
        if len(result["boxes"]) and not np.array_equal(result["mask"], sample["mask"]):
            return result
    raise AssertionError("no seed pasted an object")


def test_covered_boxes_shrink_become_crowds_or_vanish():
    """With all, half, a fifth and none of the pixels visible; a class without mask value is a rectangle."""
    other = make_squares(2, 1, (100, 40))
    for left, top, box, crowd in [
        (10, 10, (10, 10, 30, 30), False),
        (90, 40, (90, 40, 100, 60), False),
        (96, 40, (96, 40, 100, 60), True),
        (100, 40, None, False),
    ]:
        for sample in (make_squares(1, 4, (left, top)), make_squares(1, 3, (left, top))):
            result = paste_all(sample, other)
            assert result["classes"].numpy().tolist()[-1] == 1
            assert boxes_in_pixels(result)[-1] == pytest.approx((100, 40, 120, 60), abs=1e-3)
            assert len(result["boxes"]) == (1 if box is None else 2)
            if box:
                assert boxes_in_pixels(result)[0] == pytest.approx(box, abs=1e-3)
                assert result["crowd"].numpy().tolist() == [crowd, False]


def test_crowds_and_objects_without_mask_are_not_pasted():
    """Crowd regions and objects whose class has no mask value stay in their image."""
    sample = make_squares(1, 4, (10, 10))
    paste = AUGMENTS.build(parse_spec("copy_paste(scale=(1, 1))"))
    others = (
        make_squares(2, 1, (100, 40), crowd=True),
        make_squares(2, 3, (100, 40)),
        make_squares(2, 2, (100, 40)),
    )
    for other in others:
        for number in range(10):
            result = paste.apply(sample, [other], make_seed(number))
            assert np.array_equal(result["image"], sample["image"])
            assert np.array_equal(result["boxes"], sample["boxes"])


def test_a_partly_pasted_object_is_a_crowd():
    """If two objects of a class overlap and one is pasted, the visible part of the other is a crowd region."""
    paste = AUGMENTS.build(parse_spec("copy_paste(scale=(1, 1))"))
    sample, other = make_squares(1, 4, (10, 10)), make_squares(2, 1, (100, 40), (110, 40))
    boxes_of_seeds = set()
    for number in range(40):
        result = paste.apply(sample, [other], make_seed(number))
        pasted_boxes = np.round(np.c_[boxes_in_pixels(result), result["crowd"]][1:]).astype(int).tolist()
        boxes_of_seeds.add(tuple(map(tuple, pasted_boxes)))
    assert boxes_of_seeds == {
        (),
        ((100, 40, 120, 60, 0), (110, 40, 130, 60, 0)),
        ((100, 40, 120, 60, 0), (110, 40, 120, 60, 1)),
        ((110, 40, 120, 60, 1), (110, 40, 130, 60, 0)),
    }


def test_without_boxes_all_pixels_of_a_class_are_pasted():
    """Each class is pasted with probability 0.5; background and unlabeled pixels are never pasted."""
    names = ("image", "mask", "things")
    sample = {name: value for name, value in make_squares(1, 4, (10, 10)).items() if name in names}
    mask = np.zeros((100, 200, 1), np.uint8)
    mask[:, 40:80], mask[:, 80:120], mask[:, 120:] = 2, 3, IGNORE_INDEX
    other = {"image": tf.fill((100, 200, 3), tf.constant(9, tf.uint8)), "mask": tf.constant(mask)}
    class_sets = set()
    for number in range(40):
        result = AUGMENTS.build(parse_spec("copy_paste(scale=(1, 1))")).apply(sample, [other], make_seed(number))
        is_pasted = result["image"].numpy()[..., :1] == 9
        assert np.array_equal(is_pasted, result["mask"].numpy() >= 2)
        assert np.array_equal(np.where(is_pasted, mask, sample["mask"]), result["mask"])
        class_sets.add(frozenset(np.unique(mask[is_pasted]).tolist()))
    assert class_sets == {frozenset(), frozenset({2}), frozenset({3}), frozenset({2, 3})}


@settings(deadline=None, max_examples=40)
@given(samples(True), samples(True), SEEDS)
def test_mixup_scenes_keeps_the_objects_of_both_images(one, other, seed):
    """The pixels are averages of both images, the mask is that of one image, and both boxes are kept."""
    green_sample = recolor(other, (0, 255, 0), 2, 1)
    result = AUGMENTS.build(parse_spec("mixup_scenes()")).apply(one, [green_sample], make_seed(seed))
    check_consistent(result)
    assert result["classes"].numpy().tolist() == [4, 1]
    assert np.array_equal(result["boxes"][:1], one["boxes"])
    red, green = (result["image"].numpy()[..., channel].max() for channel in (0, 1))
    assert 0 < red < 255
    assert green > 0
    values = set(np.unique(result["mask"]).tolist())
    assert values <= {0, 1} or values <= {0, 2, IGNORE_INDEX}
    if values <= {0, 1}:
        assert np.array_equal(result["mask"], one["mask"])


@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_contract(name):
    """A seed gives the same result eagerly and in tf.data, some samples do not change, and one pixel is enough."""
    augment = AUGMENTS.build(Spec(name))
    inputs = [make_sample(24, 36, 5, 10, 20, 22), make_sample(30, 20, 3, 2, 28, 15), make_sample(16, 48, 1, 20, 9, 40)]
    image, mask, boxes = ([sample[key] for sample in inputs] for key in ("image", "mask", "boxes"))

    def read(index):
        branches = [lambda i=i: (image[i], mask[i], boxes[i]) for i in range(3)]
        values = tf.switch_case(tf.cast(index, tf.int32), branches)
        return inputs[0] | dict(zip(("image", "mask", "boxes"), values, strict=True))

    def apply(number):
        seed = tf.stack([number, tf.constant(7, tf.int64)])
        result = apply_multi_sample(augment, inputs[0] | CLASS_TABLES, seed, np.arange(3), read)
        return {key: result[key] for key in ("image", "mask", "boxes", "classes", "crowd", "label")}

    eager_results = [tf.nest.map_structure(np.asarray, apply(tf.constant(number, tf.int64))) for number in range(24)]
    piped = tf.data.Dataset.range(24).map(apply)
    for eager, other in zip(eager_results, piped.as_numpy_iterator(), strict=True):
        assert eager["image"].shape == other["image"].shape
        assert np.abs(eager["image"].astype(int) - other["image"]).max() <= 1
        assert np.mean(eager["mask"] != other["mask"]) < 0.02
        assert eager["boxes"] == pytest.approx(other["boxes"], abs=1e-5)
    is_unchanged = [np.array_equal(result["image"], image[0]) for result in eager_results]
    assert 4 <= sum(is_unchanged) <= 21
    one_pixel = {key: tf.constant([[value]], tf.uint8) for key, value in (("image", [5, 5, 5]), ("mask", [1]))}
    tiny = inputs[0] | CLASS_TABLES | one_pixel | {"boxes": tf.constant([[0.0, 0.0, 1.0, 1.0]])}
    for number in range(4):
        partners = inputs[: augment.num_samples][::-1] + [tiny] * (augment.num_samples - 3)
        check_consistent(augment.apply(tiny, partners, make_seed(number)))


@pytest.mark.parametrize(
    "spec",
    [
        "mosaic(probability=2)",
        "mosaic(center=(0.0, 1.0))",
        "mixup_scenes(alpha=0)",
        "copy_paste(scale=(2, 1))",
        "copy_paste(min_visible=-1)",
    ],
)
def test_options_out_of_range_are_rejected(spec):
    """Options are checked when the augment is built."""
    with pytest.raises(UserError, match="out of range"):
        AUGMENTS.build(parse_spec(spec))
