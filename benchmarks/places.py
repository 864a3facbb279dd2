"""What do a backbone's frozen levels tell about things? Logistic regression at the middle of each in tux_scenes().

    python benchmarks/places.py [--data=tux_scenes(train=300, val=60, test=200)]

For each backbone: levels P3, P4 and P5 at 320 pixels, side by side, at the middle of each box; the strength of the
regression is chosen on things of the validation split. Writes into benchmarks/RESULTS.md the share of the things of the
test split, never seen before on photographs never seen before, that get the right one of six classes, and the mIoU of
masks whose outlines are the true ones and whose classes are those. Last, what the pooled features of the first backbone
tell where each thing stands alone, upright, and fills the picture. With the small data it takes minutes and says which
backbone is worth those of benchmarks/detection.py; it does not say how well boxes would fit.
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
    """Runs the benchmark."""
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
    counts = ", ".join(
        f"{len(things[part]):,} to {use}" for part, use in zip(SPLITS, ("learn", "choose", "test"), strict=True)
    )
    lines = ["| backbone | numbers a place | right | mIoU of true outlines |", "|---|---|---|---|"]
    for name in NAMES:
        width, right, overlap = measured(name, pictures, things, masks, source.labels)
        lines.append(f"| `{name}(size=320)` | {width:,} | {right:.3f} | {overlap:.3f} |")
    width, right = alone(NAMES[0], SOURCES.resolve_options(parse_spec(data)))
    lines.append(f"| `{NAMES[0]}()`, each thing alone | {width:,} | {right:.3f} | |")
    record(f"places {data}", "What frozen levels tell about things", "\n".join([*lines, f"\n`{data}`: {counts}."]))


def measured(
    name: str, pictures: dict[str, np.ndarray], things: Things, masks: np.ndarray, labels: Sequence[str]
) -> tuple[int, float, float]:
    """How many numbers a place has, the share of the test things that get their class, and the mIoU of these."""
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
    """The same of pooled features, where a thing of these scenes fills a picture; those to learn are turned, too."""
    backbone = BACKBONES.build(parse_spec(f"{name}()"))
    model, side = keras.Model(backbone.inputs, backbone.features.pooled), backbone.card.size
    x, y = {}, {}
    made = make_generators(**{option: value for option, value in options.items() if option not in SPLITS})
    for part, studio in made.items():
        angles = (-30, -15, 0, 15, 30) if part == "train" else (0,)
        shown = [
            (label, filling(Image.open(file), side, angle, paper))
            for label, files in studio.things.items()
            for file in files
            for paper in PAPERS
            for angle in angles
        ]
        x[part] = np.asarray(make_inference_fn(model, len(shown))(np.stack([picture for _, picture in shown])))
        y[part] = [label for label, _ in shown]
    return x["train"].shape[1], fitted(x, y).score(x["test"], y["test"])


def filling(cut_out: Image.Image, side: int, angle: float, paper: tuple[int, int, int]) -> np.ndarray:
    """A thing, turned, in the middle of a square picture of one colour, of whose side it takes nine tenths."""
    thing = cut_out.convert("RGBA").rotate(angle, Image.Resampling.BICUBIC, expand=True)
    thing = thing.crop(thing.getbbox())
    share = 0.9 * side / max(thing.size)
    thing = thing.resize([max(1, int(edge * share)) for edge in thing.size], Image.Resampling.BICUBIC)
    picture = Image.new("RGBA", (side, side), (*paper, 255))
    picture.alpha_composite(thing, ((side - thing.width) // 2, (side - thing.height) // 2))
    return np.asarray(picture.convert("RGB"))


def fitted(x: dict[str, np.ndarray], y: dict[str, list[str]]) -> Pipeline:
    """Logistic regression on standardized numbers, of the strength that does best on the validation split."""
    every = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300)).fit(x["train"], y["train"])
        for strength in STRENGTHS
    ]
    return max(every, key=lambda one: one.score(x["val"], y["val"]))


def middles(levels: list[np.ndarray], things: list[tuple[int, Object]]) -> np.ndarray:
    """What the levels have at the middle of each thing, (things, numbers)."""
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
    """True masks whose things are of these classes; crowds stay what they are."""
    found, side = masks.copy(), masks.shape[1]
    for (picture, thing), label in zip(things, classes, strict=True):
        rows = slice(int(thing.top * side), int(np.ceil(thing.bottom * side)))
        columns = slice(int(thing.left * side), int(np.ceil(thing.right * side)))
        own = masks[picture, rows, columns] == list(labels).index(thing.label)
        found[picture, rows, columns][own] = list(labels).index(label)
    return found


if __name__ == "__main__":
    main()
