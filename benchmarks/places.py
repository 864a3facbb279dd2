"""What do a backbone's frozen levels tell about things? Logistic regression at the middle of each in tux_scenes().

    python benchmarks/places.py [--data=tux_scenes(train=300, val=60, test=200)]

For each backbone: levels P3, P4 and P5 at 320 pixels, side by side, at the middle of each box; the strength of the
regression is chosen on things of the validation split. Writes into benchmarks/RESULTS.md the share of the things of the
test split, never seen before on photographs never seen before, that get the right one of six classes. It takes a minute
and says which backbone is worth the minutes of benchmarks/detection.py; it does not say how well boxes would fit.
"""

import keras
import numpy as np
import tensorflow as tf
from results import record, said
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tfx_finetune.contracts import BACKBONES, SOURCES, SPLITS
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.training.engine import engine
from tfx_finetune.vision.objects import Object, parsed

NAMES = ("efficientnet_lite0", "torchvision_mobilenet_v2", "ssd_mobilenet_v2")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
LEVELS = ("P3", "P4", "P5")


def main() -> None:
    """Runs the benchmark."""
    data = said("--data") or "tux_scenes(train=300, val=60, test=200)"
    source = SOURCES.build(parse_spec(data))
    scenes = {part: list(source.read(part).as_numpy_iterator()) for part in SPLITS}
    pictures = {
        part: np.stack([tf.io.decode_jpeg(tf.io.read_file(each["image"])).numpy() for each in scenes[part]])
        for part in SPLITS
    }
    things = {
        part: [
            (number, thing)
            for number, each in enumerate(scenes[part])
            for thing in parsed(each["objects"].decode())
            if not thing.crowd
        ]
        for part in SPLITS
    }
    counts = ", ".join(
        f"{len(things[part]):,} to {use}" for part, use in zip(SPLITS, ("learn", "choose", "test"), strict=True)
    )
    lines = ["| backbone | numbers a place | right |", "|---|---|---|"]
    for name in NAMES:
        width, right = measured(name, pictures, things)
        lines.append(f"| `{name}(size=320)` | {width:,} | {right:.3f} |")
    record(f"places {data}", "What frozen levels tell about things", "\n".join([*lines, f"\n`{data}`: {counts}."]))


def measured(
    name: str, pictures: dict[str, np.ndarray], things: dict[str, list[tuple[int, Object]]]
) -> tuple[int, float]:
    """How many numbers a place has, and the share of the test split's things that get their class."""
    backbone = BACKBONES.build(parse_spec(f"{name}(size=320)"))
    model = keras.Model(backbone.inputs, [backbone.features.pyramid[level] for level in LEVELS])
    run = engine(model, sum(map(len, pictures.values())))
    x = {part: middles(list(run(pictures[part])), things[part]) for part in SPLITS}
    y = {part: [thing.label for _, thing in things[part]] for part in SPLITS}
    fitted = [regression(strength).fit(x["train"], y["train"]) for strength in STRENGTHS]
    best = max(fitted, key=lambda one: one.score(x["val"], y["val"]))
    return x["train"].shape[1], best.score(x["test"], y["test"])


def regression(strength: float) -> Pipeline:
    """Logistic regression on standardized numbers."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


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


if __name__ == "__main__":
    main()
