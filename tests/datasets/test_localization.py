"""Positions of objects in the image, in the model input, and back in the original image."""

import functools
import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.assets import fetch_asset
from tests.helpers.small_data import complaint
from tfx_finetune.bundle import drawings
from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import Spec
from tfx_finetune.data.dataset import open_dataset
from tfx_finetune.deploy.golden import GoldenSamples, read_golden, write_golden
from tfx_finetune.models.build import build_model, build_towers
from tfx_finetune.models.split import split_model
from tfx_finetune.ops.image import read_image_size
from tfx_finetune.run.plan import check
from tfx_finetune.tasks.outputs import to_original_image
from tfx_finetune.types.components import MODALITIES, TASKS, PretrainedCfg
from tfx_finetune.types.localization import IGNORE_INDEX
from tfx_finetune.types.task import ClassLabels

SIDE = 64
# Size (height, width) of black images, and a white rectangle (left, top, right, bottom) on them.
SCENES = [((96, 96), (24, 12, 60, 48)), ((80, 120), (30, 20, 90, 60)), ((120, 80), (20, 30, 60, 90))]


def modality(resize: str):
    return MODALITIES.build(Spec("image", (), {"resize": resize}), PretrainedCfg(size=SIDE))


def make_image(shape: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.zeros((*shape, 3), np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    return pixels


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(("shape", "box"), SCENES)
def test_letterbox_is_the_position_of_the_image(resize, shape, box):
    """The white pixels of the model input are inside the transformed rectangle, except along its outline."""
    image = modality(resize)
    prepared = image.prepare(tf.constant(make_image(shape, box))).numpy()[..., 0]
    letterbox = image.letterbox(tf.constant(shape))
    scale, offset = np.asarray(letterbox.scale), np.asarray(letterbox.offset)
    corners = np.array([[box[1], box[0]], [box[3], box[2]]]) * scale + offset
    (top, left), (bottom, right) = np.clip(corners, 0, SIDE)
    inside = np.zeros((SIDE, SIDE), bool)
    inside[round(top) : round(bottom), round(left) : round(right)] = True
    first, last = np.clip(np.round(offset), 0, SIDE), np.clip(np.round(np.array(shape) * scale + offset), 0, SIDE)
    in_image = np.zeros((SIDE, SIDE), bool)  # padding is white too
    in_image[int(first[0]) : int(last[0]), int(first[1]) : int(last[1])] = True
    bright = prepared > 127
    assert letterbox.side == SIDE
    # A pixel on the outline may be on either side.
    mismatch = (bright != inside) & in_image
    assert mismatch.sum() <= 2 * (right - left + bottom - top)
    assert bright[inside].mean() > 0.9


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
def test_boxes_return_to_the_original_image(resize):
    """A box that is transformed to the model input and back is unchanged if it was not cropped."""
    image = modality(resize)
    sizes = np.array([shape for shape, _ in SCENES], np.int32)
    boxes = np.array([[[b[0] / s[1], b[1] / s[0], b[2] / s[1], b[3] / s[0]]] for s, b in SCENES], np.float32)
    input_boxes = []
    for size, box in zip(sizes, boxes, strict=True):
        letterbox = image.letterbox(tf.constant(size))
        scale, offset = (np.tile(np.asarray(part)[::-1], 2) for part in (letterbox.scale, letterbox.offset))
        input_boxes.append((box * np.tile(size[::-1], 2) * scale + offset) / SIDE)
    original_boxes = to_original_image(
        tf.constant(np.array(input_boxes, np.float32)), tf.constant(sizes), image.letterbox
    )
    np.testing.assert_allclose(original_boxes, boxes, atol=1e-5)


def encode(pixels: np.ndarray, orientation: int = 1) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = orientation
    image.save(stream, "PNG", exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_are_those_of_the_upright_image(orientation):
    """Boxes belong to the image after its EXIF rotation."""
    shape = (80, 120)
    raw = encode(make_image(shape, SCENES[1][1]), orientation)
    upright_shape = shape if orientation == 1 else shape[::-1]
    assert read_image_size(raw) == upright_shape
    assert drawings.decode_pixels(raw).shape[:2] == upright_shape
    image = modality("pad")
    scale = SIDE / 120
    offset = np.array([(SIDE - round(80 * scale)) // 2, 0])[:: 1 if orientation == 1 else -1]
    boxes = np.array([[10 * scale + offset[1], 20 * scale + offset[0], 30 * scale + offset[1], 40 * scale + offset[0]]])
    rows = drawings.to_original_pixels(np.concatenate([boxes, [[0.9, 1.0]]], 1).astype(np.float32), raw, image)
    np.testing.assert_allclose(rows, [[10, 20, 30, 40, 0.9, 1.0]], atol=0.6)


def test_a_mask_returns_at_the_size_of_the_image():
    """Padding is removed; cropped pixels are ignored."""
    raw = encode(make_image((80, 120), SCENES[1][1]))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 3
    padded = drawings.to_original_pixels(mask, raw, modality("pad"))
    assert padded.shape == (80, 120)
    assert (padded[:, :60] == 3).all()
    assert (padded[:, 60:] == 0).all()
    cropped = drawings.to_original_pixels(mask, raw, modality("crop"))
    assert (cropped[:, :20] == IGNORE_INDEX).all()
    assert (cropped[:, 21:59] == 3).all()
    assert (cropped[:, -20:] == IGNORE_INDEX).all()


def test_large_golden_outputs_are_stored_as_arrays(tmp_path):
    """Small outputs stay in the JSON file; both kinds are read unchanged."""
    outputs = {
        "label/scores": np.eye(2, dtype=np.float32),
        "objects/scores": np.random.default_rng(0).random((2, 100, 60), np.float32),
        "objects/mask": np.arange(20_000, dtype=np.uint8).reshape(2, 100, 100),
    }
    raw = [{"image": encode(np.full((4, 4, 3), value, np.uint8))} for value in (0, 9)]
    folder = tmp_path / "golden"
    record = write_golden(GoldenSamples(raw, {}, outputs), folder)
    (folder / "outputs.json").write_text(json.dumps(record))
    assert list(record[0]["outputs"]) == ["label/scores"]
    read_raw, read_outputs = read_golden(folder)
    assert read_raw == raw
    assert set(read_outputs) == set(outputs)
    for name, values in outputs.items():
        np.testing.assert_array_equal(read_outputs[name], values)


@pytest.mark.parametrize("heads", ["detect()", "mask=segment(), label=classify()"])
@pytest.mark.parametrize(
    "option",
    [
        {"teacher": "runs/a"},
        {"auxiliary_losses": "coral(column='source')"},
        {"heads_by": "language"},
        {"label_translations": "cldr()"},
    ],
)
def test_unsupported_options(tmp_path, heads, option):
    """The message names the option and the head, before the data is opened."""
    ((flag, value),) = option.items()
    head = "detect()" if heads == "detect()" else "segment()"
    expected = (
        f"--{flag} does not support detection and segmentation heads: --{flag}={value} with {head}. Leave out --{flag}."
    )
    if flag == "heads_by" and heads == "detect()":
        expected = "--heads_by needs a head that predicts one class per sample: language. Expected: classify()."
    assert complaint(check, Run(data=str(tmp_path), heads=heads, **option)) == expected


def test_boxes_and_masks_cannot_be_cleaned(tmp_path):
    """`data --fix` is refused before the data is opened."""
    for heads in ("detect()", "segment()"):
        message = complaint(lambda heads=heads: open_dataset(Run(data=str(tmp_path), heads=heads), fix=True))
        assert message.startswith(f"--fix writes labels only; it cannot write boxes or masks: {heads}. Remove --fix")


@functools.cache
def make_network(heads):
    """Build a pretrained tower with these heads, once for all tests."""
    fetch_asset("efficientnet-lite0")
    plan = check(Run(data=".", backbone="efficientnet_lite0(size=64)", heads=heads))
    labels = ClassLabels(("cat", "dog", "owl"), (3, 4, 5), 12)
    tasks = {head: TASKS.build(spec, labels) for head, spec in plan.heads.items()}
    keras.utils.set_random_seed(0)
    return build_model(plan.architecture, build_towers(plan.architecture), tasks)


@pytest.mark.parametrize("unfreeze", ["0", "3", "9", "14"])
@pytest.mark.parametrize(
    "heads", ["detect()", "objects=detect(), mask=segment()", "objects=detect(), label=classify()"]
)
def test_the_parts_of_a_split_model_give_its_outputs(heads, unfreeze):
    """The frozen and the trained part of a phase together give the outputs of the model, wherever it is split."""
    network = make_network(heads)
    trunks, top = split_model(network, unfreeze)
    (trunk,) = trunks.values()
    inputs = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    features = trunk(inputs)
    assert len(features.shape) == (4 if unfreeze == "14" else 2)  # 4: no level of the pyramid is frozen
    expected, outputs = network.model({"image": inputs}), top({"image": features})
    assert set(outputs) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, atol=1e-4)
    frozen_layers = {layer.name for layer in trunk.layers}
    trained_paths = {weight.path for weight in top.trainable_weights}
    assert {weight.path for weight in network.model.trainable_weights} == trained_paths
    assert not any(path.split("/")[0] in frozen_layers for path in trained_paths)
