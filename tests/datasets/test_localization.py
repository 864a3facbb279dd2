"""Where things are: in a picture, in the prepared one, and back in the picture that came."""

import functools
import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.assets import asset
from tests.helpers.small_data import complaint
from tfx_finetune.bundle import drawings
from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import Spec
from tfx_finetune.data.dataset import open_dataset
from tfx_finetune.deploy.golden import GoldenSamples, read_golden, write_golden
from tfx_finetune.models.build import build_model, build_towers
from tfx_finetune.models.split import split_model
from tfx_finetune.ops.image import read_image_size as exif_size
from tfx_finetune.run.plan import check
from tfx_finetune.tasks.outputs import to_original_image
from tfx_finetune.types.components import MODALITIES, TASKS, PretrainedCfg
from tfx_finetune.types.localization import IGNORE_INDEX
from tfx_finetune.types.task import ClassLabels

SIDE = 64
# A bright rectangle of (left, top, right, bottom) on black pictures of (height, width).
SCENES = [((96, 96), (24, 12, 60, 48)), ((80, 120), (30, 20, 90, 60)), ((120, 80), (20, 30, 60, 90))]


def modality(resize: str):
    return MODALITIES.build(Spec("image", (), {"resize": resize}), PretrainedCfg(size=SIDE))


def picture(shape: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.zeros((*shape, 3), np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    return pixels


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(("shape", "box"), SCENES)
def test_a_lay_says_where_preparation_puts_things(resize, shape, box):
    """The bright pixels of the prepared picture are where the rectangle's corners come to, but for its outline."""
    image = modality(resize)
    prepared = image.prepare(tf.constant(picture(shape, box))).numpy()[..., 0]
    # Padding is white too.
    lay = image.lay(tf.constant(shape))
    scale, offset = np.asarray(lay.scale), np.asarray(lay.offset)
    corners = np.array([[box[1], box[0]], [box[3], box[2]]]) * scale + offset
    (top, left), (bottom, right) = np.clip(corners, 0, SIDE)
    inside = np.zeros((SIDE, SIDE), bool)
    inside[round(top) : round(bottom), round(left) : round(right)] = True
    first, last = np.clip(np.round(offset), 0, SIDE), np.clip(np.round(np.array(shape) * scale + offset), 0, SIDE)
    seen = np.zeros((SIDE, SIDE), bool)
    seen[int(first[0]) : int(last[0]), int(first[1]) : int(last[1])] = True
    bright = prepared > 127
    assert lay.side == SIDE
    # Along the edge a pixel may fall to either side.
    wrong = (bright != inside) & seen
    assert wrong.sum() <= 2 * (right - left + bottom - top)
    assert bright[inside].mean() > 0.9


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
def test_boxes_come_back_into_their_picture(resize):
    """A box laid into the prepared picture and taken back is what it was, where nothing of it was cut off."""
    image = modality(resize)
    sizes = np.array([shape for shape, _ in SCENES], np.int32)
    boxes = np.array([[[b[0] / s[1], b[1] / s[0], b[2] / s[1], b[3] / s[0]]] for s, b in SCENES], np.float32)
    laid = []
    for size, box in zip(sizes, boxes, strict=True):
        lay = image.lay(tf.constant(size))
        scale, offset = (np.tile(np.asarray(part)[::-1], 2) for part in (lay.scale, lay.offset))
        laid.append((box * np.tile(size[::-1], 2) * scale + offset) / SIDE)
    found = to_original_image(tf.constant(np.array(laid, np.float32)), tf.constant(sizes), image.lay)
    np.testing.assert_allclose(found, boxes, atol=1e-5)


def encoded(pixels: np.ndarray, orientation: int = 1) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = orientation
    image.save(stream, "PNG", exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_what_is_found_stands_in_the_picture_as_a_person_sees_it(orientation):
    """EXIF may turn a picture; boxes and masks are those of the turned one."""
    shape = (80, 120)
    raw = encoded(picture(shape, SCENES[1][1]), orientation)
    seen = shape if orientation == 1 else shape[::-1]
    assert exif_size(raw) == seen
    assert drawings.decode_pixels(raw).shape[:2] == seen
    image = modality("pad")
    scale = SIDE / 120
    offset = np.array([(SIDE - round(80 * scale)) // 2, 0])[:: 1 if orientation == 1 else -1]
    boxes = np.array([[10 * scale + offset[1], 20 * scale + offset[0], 30 * scale + offset[1], 40 * scale + offset[0]]])
    found = drawings.to_original_pixels(np.concatenate([boxes, [[0.9, 1.0]]], 1).astype(np.float32), raw, image)
    np.testing.assert_allclose(found, [[10, 20, 30, 40, 0.9, 1.0]], atol=0.6)


def test_a_mask_comes_back_at_the_size_of_the_picture():
    """Padding is left out; what a crop cut off is untold."""
    raw = encoded(picture((80, 120), SCENES[1][1]))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 3
    back = drawings.to_original_pixels(mask, raw, modality("pad"))
    assert back.shape == (80, 120)
    assert (back[:, :60] == 3).all()
    assert (back[:, 60:] == 0).all()
    cropped = drawings.to_original_pixels(mask, raw, modality("crop"))
    assert (cropped[:, :20] == IGNORE_INDEX).all()
    assert (cropped[:, 21:59] == 3).all()
    assert (cropped[:, -20:] == IGNORE_INDEX).all()


def test_golden_answers_about_every_place_are_kept_as_arrays(tmp_path):
    """They would be megabytes of text; small ones stay readable, and both come back as they were."""
    outputs = {
        "label/scores": np.eye(2, dtype=np.float32),
        "seen/scores": np.random.default_rng(0).random((2, 100, 60), np.float32),
        "seen/mask": np.arange(20_000, dtype=np.uint8).reshape(2, 100, 100),
    }
    raw = [{"image": encoded(np.full((4, 4, 3), value, np.uint8))} for value in (0, 9)]
    folder = tmp_path / "golden"
    record = write_golden(GoldenSamples(raw, {}, outputs), folder)
    (folder / "outputs.json").write_text(json.dumps(record))
    assert list(record[0]["outputs"]) == ["label/scores"]
    again, found = read_golden(folder)
    assert again == raw
    assert set(found) == set(outputs)
    for name, values in outputs.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("heads", ["detect()", "mask=segment(), label=classify()"])
@pytest.mark.parametrize(
    "option", [{"teacher": "runs/a"}, {"objectives": "coral(of='source')"}, {"route": "language"}, {"names": "cldr()"}]
)
def test_what_such_heads_cannot_do_is_said_in_a_line(tmp_path, heads, option):
    """Which flag, beside which head, and what to do; before the data is opened, of which there is none."""
    ((flag, value),) = option.items()
    beside = "detect()" if heads == "detect()" else "segment()"
    told = complaint(check, Run(data=str(tmp_path), heads=heads, **option))
    what = "a head that finds things in pictures cannot do this"
    assert told == f"{what}; received: --{flag}={value} beside {beside}; leave --{flag} out"


def test_boxes_and_masks_are_in_no_cleaned_table(tmp_path):
    """Said before the data is opened."""
    for heads in ("detect()", "segment()"):
        told = complaint(lambda heads=heads: open_dataset(Run(data=str(tmp_path), heads=heads), fix=True))
        assert told.startswith(f"--fix writes labels only; it cannot write boxes or masks: {heads}. Remove --fix")


@functools.cache
def network_of(heads):
    """A pretrained tower with these heads, built once for all cuts."""
    asset("efficientnet-lite0")
    plan = check(Run(data=".", backbone="efficientnet_lite0(size=64)", heads=heads))
    labels = ClassLabels(("cat", "dog", "owl"), (3, 4, 5), 12)
    tasks = {head: TASKS.build(spec, labels) for head, spec in plan.heads.items()}
    keras.utils.set_random_seed(0)
    return build_model(plan.architecture, build_towers(plan.architecture), tasks)


@pytest.mark.parametrize("unfreeze", ["0", "3", "9", "14"])
@pytest.mark.parametrize(
    "heads", ["detect()", "objects=detect(), mask=segment()", "objects=detect(), label=classify()"]
)
def test_a_tower_cut_at_several_levels_is_the_whole(heads, unfreeze):
    """What a phase leaves frozen and what it trains give together what the model gives, wherever the cut is."""
    network = network_of(heads)
    trunks, top = split_model(network, unfreeze)
    (trunk,) = trunks.values()
    inputs = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    kept = trunk(inputs)
    assert len(kept.shape) == (4 if unfreeze == "14" else 2)  # below which there is no level
    whole, found = network.model({"image": inputs}), top({"image": kept})
    assert set(found) == set(whole)
    for name, values in whole.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4)
    below = {layer.name for layer in trunk.layers}
    trained = {weight.path for weight in top.trainable_weights}
    assert {weight.path for weight in network.model.trainable_weights} == trained
    assert not any(path.split("/")[0] in below for path in trained)
