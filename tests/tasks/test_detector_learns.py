"""A detection head on frozen features of a pretrained backbone detects objects in new images."""

import keras
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import BACKBONES, TASKS, Features
from tfx_finetune.types.task import ClassLabels

SIDE, MOST = 128, 6
SHAPES = ("ellipse", "rectangle", "triangle")


def scene(rng):
    """Return an image of up to four colored shapes over blurred noise, and their boxes."""
    blurred = Image.fromarray(rng.integers(64, 192, (6, 6, 3), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    noise = np.asarray(blurred) + rng.normal(0, 15, (SIDE, SIDE, 3))
    picture, target = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)), np.zeros((MOST, 6), np.float32)
    draw = ImageDraw.Draw(picture)
    for row in range(rng.integers(0, 5)):
        corner, sides = rng.integers(0, SIDE - 56, 2), rng.integers(16, 56, 2)
        label, colour = int(rng.integers(0, 3)), tuple(rng.integers(0, 256, 3).tolist())
        (left, top), (right, bottom) = corner.tolist(), (corner + sides).tolist()
        if label == 2:
            draw.polygon([((left + right) / 2, top), (left, bottom - 1), (right - 1, bottom - 1)], fill=colour)
        else:
            getattr(draw, SHAPES[label])((left, top, right - 1, bottom - 1), fill=colour)
        target[row] = [left, top, right, bottom, label, 1]
    return np.asarray(picture), target


@pytest.mark.slow
def test_a_head_on_frozen_features_detects_shapes():
    """After 12 epochs on 300 images, most shapes in new images are detected."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    pictures, targets = map(np.stack, zip(*(scene(rng) for _ in range(400)), strict=True))
    tower = BACKBONES.build(Spec("efficientnet_lite0", (), {"size": SIDE}))
    trunk = keras.Model(tower.inputs, {level: tower.features.pyramid[level] for level in ("P3", "P4", "P5")})
    features = trunk.predict(pictures.astype(np.float32), batch_size=50, verbose=0)
    task = TASKS.build(Spec("detect", (), {"max_objects": MOST}), ClassLabels(SHAPES, (1, 1, 1), 3))
    inputs = {level: keras.Input(value.shape[1:], name=level) for level, value in features.items()}
    head = keras.Model(inputs, task.head(Features(inputs["P5"], inputs))["logits"])
    rate = keras.optimizers.schedules.CosineDecay(0.0, 12 * 19, warmup_target=2e-3, warmup_steps=12)
    head.compile(keras.optimizers.AdamW(rate), task.loss, jit_compile=False)
    head.fit(
        {level: value[:300] for level, value in features.items()}, targets[:300], epochs=12, batch_size=16, verbose=0
    )
    logits = head.predict({level: value[300:] for level, value in features.items()}, verbose=0)
    detections = task.postprocess({name: np.asarray(value) for name, value in task.decode({"logits": logits}).items()})
    scores = task.compute_metrics(targets[300:], detections)
    assert scores["ap50"] > 0.8
    assert task.per_sample_score(targets[300:], detections).mean() > 0.7
