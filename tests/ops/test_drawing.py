"""What is drawn on pixels, read back from them."""

import numpy as np

from tfx_finetune.ops.drawing import LabeledBox, draw_boxes, draw_mask, make_palette

GREY = np.full((100, 120, 3), 128, np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_a_box_is_a_frame_of_its_colour():
    """Its edges lie at the given pixels, its inside and the picture given stay as they are."""
    found = draw_boxes(GREY, [LabeledBox("", (20, 30, 90, 80), color=RED)])
    assert found.shape == GREY.shape
    for y, x in ((30, 50), (80, 50), (50, 20), (50, 90)):
        assert tuple(found[y, x]) == RED
    assert (found[33:77, 23:87] == 128).all()
    assert (found[:29] == 128).all()
    assert (GREY == 128).all()


def test_the_name_stands_above_or_inside():
    """Where there is no room above, it stands in the box; score and name make it wider than the name alone."""
    above, inside = (
        draw_boxes(GREY, [LabeledBox("cat", (20, 50, 90, 80), color=RED)]),
        draw_boxes(GREY, [LabeledBox("cat", (20, 0, 90, 80))]),
    )
    assert (above[40:48, 22:30] != 128).any()
    assert (inside[2:10, 22:30] != 128).any()
    with_score = draw_boxes(GREY, [LabeledBox("cat", (20, 50, 90, 80), 0.93, RED)])
    assert (with_score != 128).any(-1)[:48].sum() > (above != 128).any(-1)[:48].sum()


def test_what_lies_outside_or_has_no_area_is_drawn_too():
    """Found boxes may be anywhere; a label of another script is no error; a grey picture becomes coloured."""
    drawn = [
        LabeledBox("ägg 猫", (-50, -20, 300, 40), 0.5, RED),
        LabeledBox("b", (60, 60, 60, 60)),
        LabeledBox("c", (70, 70, 60, 60)),
    ]
    found = draw_boxes(GREY[..., :1], [*drawn, LabeledBox("crowd", (10, 50, 100, 90), color=BLUE, is_dashed=True)])
    assert found.shape == (100, 120, 3)
    edge = (found[90, 10:100] == BLUE).all(-1)
    assert 0.3 < edge.mean() < 0.7


def test_overlay_mixes_colours_where_there_is_a_class():
    """Half of (255, 0, 0) on 128 is (192, 64, 64); 255 is no class, and the background is left clear."""
    mask = np.full((100, 120), 255, np.uint8)
    mask[:10], mask[10:20] = 0, 1
    found = draw_mask(GREY, mask, np.array([BLUE, RED], np.uint8), transparent_classes=[0], opacity=0.5)
    assert (found[:10] == 128).all()
    assert (found[20:] == 128).all()
    assert np.abs(found[10:20].astype(int) - [191.5, 64, 64]).max() <= 0.5
    assert np.array_equal(found, draw_mask(GREY, mask[..., None], np.array([BLUE, RED], np.uint8), [0], 0.5))


def test_colours_of_classes_differ():
    """Those of the first classes do not change when more are added."""
    found = make_palette(40).astype(int)
    apart = np.abs(found[:, None] - found).sum(-1) + 1000 * np.eye(40, dtype=int)
    assert apart.min() > 10
    assert np.abs(found[:8, None] - found[:8]).sum(-1)[~np.eye(8, dtype=bool)].min() > 60
    assert np.array_equal(make_palette(5), make_palette(40)[:5])
    assert make_palette(0).shape == (0, 3)
