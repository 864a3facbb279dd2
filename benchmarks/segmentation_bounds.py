"""Measure what frozen pyramid levels know about objects: logistic regression at object centers of tux_scenes().

    python benchmarks/places.py [--data=tux_scenes(train=300, val=60, test=200)]

For each backbone: levels P3, P4 and P5 at 320 pixels, concatenated, at the center of each box; the strength of the
regression is selected on the validation split. Writes into benchmarks/RESULTS.md the accuracy over six classes on
unseen things in unseen photographs, and the mIoU of masks with true outlines and predicted classes. The last row is the
accuracy of pooled features if each thing is alone, upright, and fills the image. The benchmark takes minutes and tells
which backbones are worth those of benchmarks/detection.py; it does not measure localization.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from results import record, said
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets.samples.scene_generator import SceneOptions
from tfx_finetune.datasets.samples.tux_scenes import make_generators
from tfx_finetune.ops.objects import Object, parse_objects
from tfx_finetune.tasks.segmentation_metrics import compute_segmentation_metrics
from tfx_finetune.training.engine import make_inference_fn
from tfx_finetune.types.components import BACKBONES, SOURCES, SPLITS

NAMES = ("efficientnet_lite0", "torchvision_mobilenet_v2", "ssd_mobilenet_v2")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
LEVELS = ("P3", "P4", "P5")
PAPERS = ((255, 255, 255), (127, 127, 127))
"""What a thing stands on that stands alone."""
Things = dict[str, list[tuple[int, Object]]]
"""The number of its scene, and each thing that is no crowd, by split."""


def main() -> None:
    """Run the benchmark."""
    data = said("--data") or "tux_scenes(train=300, val=60, test=200)"
    source = SOURCES.build(parse_spec(data))
    scenes = {part: list(source.read(part).as_numpy_iterator()) for part in SPLITS}
    pictures = {
        part: np.stack([tf.io.decode_jpeg(tf.io.read_file(each["image"])).numpy() for each in scenes[part]])
        for part in SPLITS
    }
    masks = np.stack([tf.io.decode_png(tf.io.read_file(each["mask"])).numpy()[..., 0] for each in scenes["test"]])
    things = {
        part: [
            (number, thing)
            for number, each in enumerate(scenes[part])
            for thing in parse_objects(each["objects"].decode())
            if not thing.crowd
        ]
        for part in SPLITS
    }
    train, val, test = (f"{len(things[split]):,}" for split in SPLITS)
    counts = f"{train} training, {val} validation and {test} test objects"
    lines = ["| backbone | features | accuracy | mIoU of true outlines |", "|---|---|---|---|"]
    for name in NAMES:
        width, right, overlap = measured(name, pictures, things, masks, source.labels)
        lines.append(f"| `{name}(size=320)` | {width:,} | {right:.3f} | {overlap:.3f} |")
    width, right = alone(NAMES[0], SOURCES.resolve_options(parse_spec(data)))
    lines.append(f"| `{NAMES[0]}()`, single objects | {width:,} | {right:.3f} | |")
    record(f"places {data}", "Accuracy of frozen pyramid levels", "\n".join([*lines, f"\n`{data}`: {counts}."]))


def measured(
    name: str, pictures: dict[str, np.ndarray], things: Things, masks: np.ndarray, labels: Sequence[str]
) -> tuple[int, float, float]:
    """Return the number of features, the accuracy on test objects, and the mIoU of true outlines."""
    backbone = BACKBONES.build(parse_spec(f"{name}(size=320)"))
    model = keras.Model(backbone.inputs, [backbone.features.pyramid[level] for level in LEVELS])
    run = make_inference_fn(model, sum(map(len, pictures.values())))
    x = {part: middles(list(run(pictures[part])), things[part]) for part in SPLITS}
    y = {part: [thing.label for _, thing in things[part]] for part in SPLITS}
    best = fitted(x, y)
    found = painted(masks, things["test"], best.predict(x["test"]), labels)
    overlap = compute_segmentation_metrics(tuple(labels), masks, found, full_report=False)["miou"]
    return x["train"].shape[1], best.score(x["test"], y["test"]), overlap


def alone(name: str, options: dict[str, Any]) -> tuple[int, float]:
    """Return the same for pooled features of single, image-filling objects; training objects are rotated as well."""
    backbone = BACKBONES.build(parse_spec(f"{name}()"))
    model, side = keras.Model(backbone.inputs, backbone.features.pooled), backbone.pretrained_cfg.size
    x, y = {}, {}
    scene_options = SceneOptions(*(options[name] for name in SceneOptions._fields))
    made = make_generators(options["classes"], scene_options, options["seed"])
    for part, studio in made.items():
        angles = (-30, -15, 0, 15, 30) if part == "train" else (0,)
        shown = [
            (label, filling(Image.open(file), side, angle, paper))
            for label, files in studio.cut_outs.items()
            for file in files
            for paper in PAPERS
            for angle in angles
        ]
        x[part] = np.asarray(make_inference_fn(model, len(shown))(np.stack([picture for _, picture in shown])))
        y[part] = [label for label, _ in shown]
    return x["train"].shape[1], fitted(x, y).score(x["test"], y["test"])


def filling(cut_out: Image.Image, side: int, angle: float, paper: tuple[int, int, int]) -> np.ndarray:
    """Return an object, rotated, centered on a square of one color and nine tenths as large."""
    thing = cut_out.convert("RGBA").rotate(angle, Image.Resampling.BICUBIC, expand=True)
    thing = thing.crop(thing.getbbox())
    share = 0.9 * side / max(thing.size)
    thing = thing.resize([max(1, int(edge * share)) for edge in thing.size], Image.Resampling.BICUBIC)
    picture = Image.new("RGBA", (side, side), (*paper, 255))
    picture.alpha_composite(thing, ((side - thing.width) // 2, (side - thing.height) // 2))
    return np.asarray(picture.convert("RGB"))


def fitted(x: dict[str, np.ndarray], y: dict[str, list[str]]) -> Pipeline:
    """Fit logistic regression on standardized features, with the strength that is best on the validation split."""
    every = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300)).fit(x["train"], y["train"])
        for strength in STRENGTHS
    ]
    return max(every, key=lambda one: one.score(x["val"], y["val"]))


def middles(levels: list[np.ndarray], things: list[tuple[int, Object]]) -> np.ndarray:
    """Return the level features at the center of each object, (objects, features)."""
    found = []
    for picture, thing in things:
        across, down = (thing.left + thing.right) / 2, (thing.top + thing.bottom) / 2
        sides = [len(level[picture]) for level in levels]
        found.append(
            [level[picture, int(down * side), int(across * side)] for level, side in zip(levels, sides, strict=True)]
        )
    return np.stack([np.concatenate(each) for each in found])


def painted(
    masks: np.ndarray, things: list[tuple[int, Object]], classes: Sequence[str], labels: Sequence[str]
) -> np.ndarray:
    """Return true masks with predicted classes; crowds keep their class."""
    found, side = masks.copy(), masks.shape[1]
    for (picture, thing), label in zip(things, classes, strict=True):
        rows = slice(int(thing.top * side), int(np.ceil(thing.bottom * side)))
        columns = slice(int(thing.left * side), int(np.ceil(thing.right * side)))
        own = masks[picture, rows, columns] == list(labels).index(thing.label)
        found[picture, rows, columns][own] = list(labels).index(label)
    return found


if __name__ == "__main__":
    main()
