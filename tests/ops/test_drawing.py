"""Drawings of boxes and masks, checked by their pixels."""

import numpy as np

from tfx_finetune.ops.drawing import LabeledBox, draw_boxes, draw_mask, make_palette

GRAY = np.full((100, 120, 3), 128, np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_a_box_is_a_frame_of_its_color():
    """The frame lies on the edges of the box; the inside and the original image do not change."""
    drawing = draw_boxes(GRAY, [LabeledBox("", (20, 30, 90, 80), color=RED)])
    assert drawing.shape == GRAY.shape
    for y, x in ((30, 50), (80, 50), (50, 20), (50, 90)):
        assert tuple(drawing[y, x]) == RED
    assert (drawing[33:77, 23:87] == 128).all()
    assert (drawing[:29] == 128).all()
    assert (GRAY == 128).all()


def test_the_label_is_above_or_inside_the_box():
    """Without room above, the label is inside the box; a label with a score is wider than one without."""
    above, inside = (
        draw_boxes(GRAY, [LabeledBox("cat", (20, 50, 90, 80), color=RED)]),
        draw_boxes(GRAY, [LabeledBox("cat", (20, 0, 90, 80))]),
    )
    assert (above[40:48, 22:30] != 128).any()
    assert (inside[2:10, 22:30] != 128).any()
    with_score = draw_boxes(GRAY, [LabeledBox("cat", (20, 50, 90, 80), 0.93, RED)])
    assert (with_score != 128).any(-1)[:48].sum() > (above != 128).any(-1)[:48].sum()


def test_boxes_outside_the_image_or_without_area_are_drawn():
    """Predicted boxes may lie anywhere, labels may be of any script, and a grayscale image becomes RGB."""
    labeled_boxes = [
        LabeledBox("ägg 猫", (-50, -20, 300, 40), 0.5, RED),
        LabeledBox("b", (60, 60, 60, 60)),
        LabeledBox("c", (70, 70, 60, 60)),
    ]
    crowd = LabeledBox("crowd", (10, 50, 100, 90), color=BLUE, is_dashed=True)
    drawing = draw_boxes(GRAY[..., :1], [*labeled_boxes, crowd])
    assert drawing.shape == (100, 120, 3)
    edge = (drawing[90, 10:100] == BLUE).all(-1)
    assert 0.3 < edge.mean() < 0.7


def test_mask_colors_are_blended_where_a_class_has_a_color():
    """Half of (255, 0, 0) on 128 is (192, 64, 64); pixels of 255 and of a transparent class do not change."""
    mask = np.full((100, 120), 255, np.uint8)
    mask[:10], mask[10:20] = 0, 1
    drawing = draw_mask(GRAY, mask, np.array([BLUE, RED], np.uint8), transparent_classes=[0], opacity=0.5)
    assert (drawing[:10] == 128).all()
    assert (drawing[20:] == 128).all()
    assert np.abs(drawing[10:20].astype(int) - [191.5, 64, 64]).max() <= 0.5
    assert np.array_equal(drawing, draw_mask(GRAY, mask[..., None], np.array([BLUE, RED], np.uint8), [0], 0.5))


def test_colors_of_classes_differ():
    """Colors are distinct, and the colors of the first classes do not depend on the number of classes."""
    palette = make_palette(40).astype(int)
    distances = np.abs(palette[:, None] - palette).sum(-1) + 1000 * np.eye(40, dtype=int)
    assert distances.min() > 10
    assert np.abs(palette[:8, None] - palette[:8]).sum(-1)[~np.eye(8, dtype=bool)].min() > 60
    assert np.array_equal(make_palette(5), make_palette(40)[:5])
    assert make_palette(0).shape == (0, 3)
