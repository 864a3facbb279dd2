"""Augments that put other training samples into one: where everything comes to."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.test_augments import PARTNERS
from tests.ops.test_geometry import MOVES, chained, check_whole, extent, sample
from tests.ops.test_geometry import samples as one_object
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets.multi_sample import apply_multi_sample
from tfx_finetune.types.components import AUGMENTS
from tfx_finetune.types.localization import IGNORE_INDEX

SEEDS = st.integers(0, 10**6)
TOLD = {
    "things": tf.constant([False, True, True, True, True] + [False] * 251),
    # Boxes of tests.test_geometry are of class 4, and its masks have 1 there.
    "values": tf.constant([-1, 2, 3, -1, 1]),
}


def seeds(number):
    return tf.constant([number, 3], tf.int64)


def pixels_of(one):
    height, width = one["image"].shape[:2]
    return one["boxes"].numpy() * [width, height, width, height]


def of_class(one, colour, value, label):
    """The same object in another colour and of another class."""
    inside = one["mask"].numpy() == 1
    return one | {
        "image": tf.constant(np.where(inside, np.array(colour, np.uint8), 0).astype(np.uint8)),
        "mask": tf.constant(np.where(inside, value, 0).astype(np.uint8)),
        "classes": tf.constant([label]),
    }


@settings(deadline=None, max_examples=40)
@given(st.lists(one_object(True), min_size=4, max_size=4), SEEDS)
def test_a_mosaic_keeps_picture_mask_and_boxes_together(several, seed):
    """In the size of the sample, filled by pictures; every box encloses its pixels, which all are in some box."""
    found = AUGMENTS.build(parse_spec("mosaic(min_visible=0)")).apply(several[0], several[1:], seeds(seed))
    check_whole(found)
    assert found["image"].shape == several[0]["image"].shape
    mask, red = found["mask"].numpy()[..., 0], found["image"].numpy()[..., 0]
    assert not (mask == IGNORE_INDEX).any()
    around = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2, mode="edge"), (5, 5))
    even = around.min((-1, -2)) == around.max((-1, -2))
    assert np.mean((red > 127)[even] == (mask == 1)[even]) > 0.97  # at cuts, other pictures begin
    covered = np.zeros(mask.shape, bool)
    for left, top, right, bottom in pixels_of(found):
        box = (
            slice(max(int(top - 1), 0), int(np.ceil(bottom + 1))),
            slice(max(int(left - 1), 0), int(np.ceil(right + 1))),
        )
        covered[box] = True
    assert covered[mask == 1].all()
    assert len(found["boxes"]) <= 4


def test_a_mosaic_by_hand():
    """Four plain pictures, whose boxes are all that there is of them, around the middle."""
    plain = [
        {
            "image": tf.fill((40, 60, 3), tf.constant(value, tf.uint8)),
            "boxes": tf.constant([[0.0, 0.0, 1.0, 1.0]]),
            "classes": tf.constant([value]),
            "crowd": tf.constant([value == 4]),
        }
        for value in (1, 2, 3, 4)
    ]
    mosaic = AUGMENTS.build(parse_spec("mosaic(center=(0.5, 0.5), min_visible=0)"))
    found = mosaic.apply(plain[0], plain[1:], seeds(0))
    assert found["image"][:20, :30, 0].numpy().ravel().tolist() == [1] * 600
    assert [int(found["image"][y, x, 0]) for y in (0, 20) for x in (30, 59)] == [2, 2, 4, 4]
    assert int(found["image"][39, 0, 0]) == 3
    expected = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    assert found["boxes"].numpy() == pytest.approx(np.array(expected))
    assert found["classes"].numpy().tolist() == [1, 2, 3, 4]
    assert found["crowd"].numpy().tolist() == [False, False, False, True]
    hardly = AUGMENTS.build(parse_spec("mosaic(min_visible=1)")).apply(plain[0], plain[1:], seeds(1))
    assert hardly["crowd"].numpy().tolist() == [True] * 4  # none is seen whole


@settings(deadline=None, max_examples=40)
@given(one_object(True), one_object(True), SEEDS)
def test_what_is_pasted_has_its_own_pixels_and_box(one, other, seed):
    """Pixels of the mask's classes are those of the pictures; boxes are the extents of what can be seen."""
    green = of_class(other, (0, 255, 0), 2, 1)
    paste = AUGMENTS.build(parse_spec("copy_paste(scale=(1, 1), min_visible=0)"))
    found = paste.apply(one | TOLD, [green], seeds(seed))
    check_whole(found)
    mask, pixels = found["mask"].numpy()[..., 0], found["image"].numpy()
    before, unchanged = one["mask"].numpy()[..., 0], mask != 2
    assert np.array_equal(mask[unchanged], before[unchanged])
    assert np.array_equal(pixels[unchanged], one["image"].numpy()[unchanged])
    boxes = dict(zip(found["classes"].numpy().tolist(), pixels_of(found), strict=True))
    assert (1 in boxes) == (mask == 2).any()
    assert (4 in boxes) == (mask == 1).any()
    if 1 in boxes:
        assert boxes[1] == pytest.approx(extent(mask == 2), abs=1e-3)
        around = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2, mode="edge"), (5, 5))
        inner = around.min((-1, -2)) == 2
        assert (pixels[inner & (around.max((-1, -2)) == 2)][:, 1] > 100).all()
    if 4 in boxes and (mask == 1).sum() < (before == 1).sum():
        assert boxes[4] == pytest.approx(extent(mask == 1), abs=1e-3)


CHAIN = st.lists(st.sampled_from([*MOVES, "rand_augment", "erase", "color"]), max_size=3)
JOINING = ("mosaic(min_visible=0)", "copy_paste(scale=(1, 1), min_visible=0)")


@settings(deadline=None, max_examples=60)
@given(st.lists(one_object(True), min_size=4, max_size=4), st.sampled_from(JOINING), CHAIN, CHAIN, SEEDS)
def test_boxes_enclose_their_objects_in_any_chain(several, joining, before, after, seed):
    """Whatever moves a sample before others come into it, and all of them behind it; a pixel is rounded."""
    change = AUGMENTS.build(parse_spec(joining))
    others = [of_class(one, (0, 255, 0), 1 + label, label) for label, one in enumerate(several[1:], 1)]
    told = TOLD | {"values": tf.constant([-1, 2, 3, 4, 1])}
    found = change.apply(chained(several[0], before, seed) | told, others[: change.count], seeds(seed))
    found = chained({name: value for name, value in found.items() if name not in told}, after, seed + 1)
    check_whole(found)
    mask = found["mask"].numpy()[..., 0]
    for label, box in zip(found["classes"].numpy().tolist(), pixels_of(found), strict=True):
        value = told["values"].numpy()[label]
        if (mask == value).any():
            own = extent(mask == value)
            assert (own[:2] >= box[:2] - 1).all()
            assert (own[2:] <= box[2:] + 1).all()


def block(value, label, *boxes, crowd=False):
    """Objects of 20 x 20 pixels and 8 x 8 units of a picture, (left, top) in pixels."""
    mask = np.zeros((100, 200, 1), np.uint8)
    for left, top in boxes:
        mask[top : top + 20, left : left + 20] = value
    return TOLD | {
        "image": tf.constant(np.repeat(mask * 50, 3, -1)),
        "mask": tf.constant(mask),
        "boxes": tf.constant([[x / 200, y / 100, (x + 20) / 200, (y + 20) / 100] for x, y in boxes], tf.float32),
        "classes": tf.fill((len(boxes),), label),
        "crowd": tf.fill((len(boxes),), crowd),
    }


def pasted(one, other, spec="copy_paste(scale=(1, 1))"):
    """With every object chosen, whatever the seed: that of the first such seed."""
    augment = AUGMENTS.build(parse_spec(spec))
    for number in range(60):
        found = augment.apply(one, [other], seeds(number))
        if len(found["boxes"]) and not np.array_equal(found["mask"], one["mask"]):
            return found
    raise AssertionError("nothing was pasted")


def test_what_is_covered_becomes_smaller_a_crowd_or_goes():
    """Of 20 x 20 pixels, all, half, a fifth and none are left; what has no class in masks is a rectangle."""
    other = block(2, 1, (100, 40))
    for left, top, box, crowd in [
        (10, 10, (10, 10, 30, 30), False),
        (90, 40, (90, 40, 100, 60), False),
        (96, 40, (96, 40, 100, 60), True),
        (100, 40, None, False),
    ]:
        for mine in (block(1, 4, (left, top)), block(1, 3, (left, top))):
            found = pasted(mine, other)
            assert found["classes"].numpy().tolist()[-1] == 1
            assert pixels_of(found)[-1] == pytest.approx((100, 40, 120, 60), abs=1e-3)
            assert len(found["boxes"]) == (1 if box is None else 2)
            if box:
                assert pixels_of(found)[0] == pytest.approx(box, abs=1e-3)
                assert found["crowd"].numpy().tolist() == [crowd, False]


def test_crowds_and_what_masks_do_not_tell_are_not_pasted():
    """Nor is the background, nor what is untold."""
    mine = block(1, 4, (10, 10))
    paste = AUGMENTS.build(parse_spec("copy_paste(scale=(1, 1))"))
    for other in (block(2, 1, (100, 40), crowd=True), block(2, 3, (100, 40)), block(2, 2, (100, 40))):
        for number in range(10):
            found = paste.apply(mine, [other], seeds(number))
            assert np.array_equal(found["image"], mine["image"])
            assert np.array_equal(found["boxes"], mine["boxes"])


def test_a_part_that_comes_along_is_a_crowd():
    """Two objects of one class overlap; where one of them is pasted, what the other has of it is neither."""
    found = [
        AUGMENTS.build(parse_spec("copy_paste(scale=(1, 1))")).apply(
            block(1, 4, (10, 10)), [block(2, 1, (100, 40), (110, 40))], seeds(number)
        )
        for number in range(40)
    ]
    some = {tuple(map(tuple, np.round(np.c_[pixels_of(one), one["crowd"]][1:]).astype(int).tolist())) for one in found}
    assert some == {
        (),
        ((100, 40, 120, 60, 0), (110, 40, 130, 60, 0)),
        ((100, 40, 120, 60, 0), (110, 40, 120, 60, 1)),
        ((110, 40, 120, 60, 1), (110, 40, 130, 60, 0)),
    }


def test_without_boxes_whole_classes_are_pasted():
    """Each in half of the cases, never the background and never what is untold."""
    names = ("image", "mask", "things")
    mine = {name: value for name, value in block(1, 4, (10, 10)).items() if name in names}
    mask = np.zeros((100, 200, 1), np.uint8)
    mask[:, 40:80], mask[:, 80:120], mask[:, 120:] = 2, 3, IGNORE_INDEX
    other = {"image": tf.fill((100, 200, 3), tf.constant(9, tf.uint8)), "mask": tf.constant(mask)}
    seen = set()
    for number in range(40):
        found = AUGMENTS.build(parse_spec("copy_paste(scale=(1, 1))")).apply(mine, [other], seeds(number))
        theirs = found["image"].numpy()[..., :1] == 9
        assert np.array_equal(theirs, found["mask"].numpy() >= 2)
        assert np.array_equal(np.where(theirs, mask, mine["mask"]), found["mask"])
        seen.add(frozenset(np.unique(mask[theirs]).tolist()))
    assert seen == {frozenset(), frozenset({2}), frozenset({3}), frozenset({2, 3})}


@settings(deadline=None, max_examples=40)
@given(one_object(True), one_object(True), SEEDS)
def test_scenes_laid_over_one_another_keep_all_objects(one, other, seed):
    """The picture is between both, the mask is one of theirs, and both boxes are there."""
    green = of_class(other, (0, 255, 0), 2, 1)
    found = AUGMENTS.build(parse_spec("mixup_scenes()")).apply(one, [green], seeds(seed))
    check_whole(found)
    assert found["classes"].numpy().tolist() == [4, 1]
    assert np.array_equal(found["boxes"][:1], one["boxes"])
    red, green = (found["image"].numpy()[..., channel].max() for channel in (0, 1))
    assert 0 < red < 255
    assert green > 0
    values = set(np.unique(found["mask"]).tolist())
    assert values <= {0, 1} or values <= {0, 2, IGNORE_INDEX}
    if values <= {0, 1}:
        assert np.array_equal(found["mask"], one["mask"])


@pytest.mark.parametrize("name", PARTNERS)
def test_contract(name):
    """One seed gives one result, alone and in tf.data; a share of the samples is changed; one pixel is enough."""
    augment = AUGMENTS.build(Spec(name))
    several = [sample(24, 36, 5, 10, 20, 22), sample(30, 20, 3, 2, 28, 15), sample(16, 48, 1, 20, 9, 40)]
    image, mask, boxes = ([one[key] for one in several] for key in ("image", "mask", "boxes"))

    def read(place):
        chosen = [lambda at=at: (image[at], mask[at], boxes[at]) for at in range(3)]
        found = tf.switch_case(tf.cast(place, tf.int32), chosen)
        return several[0] | dict(zip(("image", "mask", "boxes"), found, strict=True))

    def one(number):
        seed = tf.stack([number, tf.constant(7, tf.int64)])
        found = apply_multi_sample(augment, several[0] | TOLD, seed, np.arange(3), read)
        return {key: found[key] for key in ("image", "mask", "boxes", "classes", "crowd", "label")}

    alone = [tf.nest.map_structure(np.asarray, one(tf.constant(number, tf.int64))) for number in range(24)]
    piped = tf.data.Dataset.range(24).map(one)
    for eager, other in zip(alone, piped.as_numpy_iterator(), strict=True):
        assert eager["image"].shape == other["image"].shape
        assert np.abs(eager["image"].astype(int) - other["image"]).max() <= 1
        assert np.mean(eager["mask"] != other["mask"]) < 0.02
        assert eager["boxes"] == pytest.approx(other["boxes"], abs=1e-5)
    same = [np.array_equal(found["image"], image[0]) for found in alone]
    assert 4 <= sum(same) <= 21
    speck = {key: tf.constant([[value]], tf.uint8) for key, value in (("image", [5, 5, 5]), ("mask", [1]))}
    tiny = several[0] | TOLD | speck | {"boxes": tf.constant([[0.0, 0.0, 1.0, 1.0]])}
    for number in range(4):
        check_whole(augment.apply(tiny, several[: augment.count][::-1] + [tiny] * (augment.count - 3), seeds(number)))


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
def test_ranges_are_checked(spec):
    """What lies outside of it is refused where the spec is read."""
    with pytest.raises(UserError, match="out of range"):
        AUGMENTS.build(parse_spec(spec))
