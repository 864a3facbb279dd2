"""Measure the class accuracy of frozen pyramid levels by logistic regression at object centers of tux_scenes().

    python benchmarks/segmentation_bounds.py [--data=tux_scenes(train=300, val=60, test=200)]

For each backbone: levels P3, P4 and P5 at 320 pixels, concatenated, at the center of each box; the strength of the
regression is selected on the validation split. Writes into benchmarks/RESULTS.md the accuracy over six classes on
unseen objects in unseen photographs, and the mIoU of masks with true outlines and predicted classes. The last row is
the accuracy of pooled features if each object is alone, upright, and fills the image. The benchmark takes minutes and
ranks backbones for benchmarks/detection.py; it does not measure localization.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from results import get_flag, record
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

BACKBONE_NAMES = ("efficientnet_lite0", "torchvision_mobilenet_v2", "ssd_mobilenet_v2")
C_VALUES = (1e-4, 1e-3, 1e-2, 1e-1)
LEVELS = ("P3", "P4", "P5")
BACKGROUNDS = ((255, 255, 255), (127, 127, 127))
"""Background colors of single objects."""
ObjectsBySplit = dict[str, list[tuple[int, Object]]]
"""Scene index and annotation of each object that is no crowd, by split."""


def main() -> None:
    """Run the benchmark."""
    data = get_flag("--data") or "tux_scenes(train=300, val=60, test=200)"
    source = SOURCES.build(parse_spec(data))
    scenes = {split: list(source.read(split).as_numpy_iterator()) for split in SPLITS}
    images = {
        split: np.stack([tf.io.decode_jpeg(tf.io.read_file(scene["image"])).numpy() for scene in scenes[split]])
        for split in SPLITS
    }
    masks = np.stack([tf.io.decode_png(tf.io.read_file(scene["mask"])).numpy()[..., 0] for scene in scenes["test"]])
    objects = {
        split: [
            (index, obj)
            for index, scene in enumerate(scenes[split])
            for obj in parse_objects(scene["objects"].decode())
            if not obj.crowd
        ]
        for split in SPLITS
    }
    train, val, test = (f"{len(objects[split]):,}" for split in SPLITS)
    counts = f"{train} training, {val} validation and {test} test objects"
    lines = ["| backbone | features | accuracy | mIoU of true outlines |", "|---|---|---|---|"]
    for name in BACKBONE_NAMES:
        width, accuracy, miou = measure_backbone(name, images, objects, masks, source.labels)
        lines.append(f"| `{name}(size=320)` | {width:,} | {accuracy:.3f} | {miou:.3f} |")
    width, accuracy = measure_single_objects(BACKBONE_NAMES[0], SOURCES.resolve_options(parse_spec(data)))
    lines.append(f"| `{BACKBONE_NAMES[0]}()`, single objects | {width:,} | {accuracy:.3f} | |")
    record(
        f"segmentation_bounds {data}",
        "Accuracy of frozen pyramid levels",
        "\n".join([*lines, f"\n`{data}`: {counts}."]),
    )


def measure_backbone(
    name: str, images: dict[str, np.ndarray], objects: ObjectsBySplit, masks: np.ndarray, labels: Sequence[str]
) -> tuple[int, float, float]:
    """Return the number of features, the accuracy on test objects, and the mIoU of true outlines."""
    backbone = BACKBONES.build(parse_spec(f"{name}(size=320)"))
    model = keras.Model(backbone.inputs, [backbone.features.pyramid[level] for level in LEVELS])
    infer = make_inference_fn(model, sum(map(len, images.values())))
    x = {split: extract_center_features(list(infer(images[split])), objects[split]) for split in SPLITS}
    y = {split: [obj.label for _, obj in objects[split]] for split in SPLITS}
    classifier = fit_classifier(x, y)
    predictions = replace_classes(masks, objects["test"], classifier.predict(x["test"]), labels)
    miou = compute_segmentation_metrics(tuple(labels), masks, predictions, full_report=False)["miou"]
    return x["train"].shape[1], classifier.score(x["test"], y["test"]), miou


def measure_single_objects(name: str, options: dict[str, Any]) -> tuple[int, float]:
    """Return the same for pooled features of single, image-filling objects; training objects are rotated as well."""
    backbone = BACKBONES.build(parse_spec(f"{name}()"))
    model, side = keras.Model(backbone.inputs, backbone.features.pooled), backbone.pretrained_cfg.size
    x, y = {}, {}
    scene_options = SceneOptions(*(options[name] for name in SceneOptions._fields))
    generators = make_generators(options["classes"], scene_options, options["seed"])
    for split, generator in generators.items():
        angles = (-30, -15, 0, 15, 30) if split == "train" else (0,)
        samples = [
            (label, render_object(Image.open(path), side, angle, background))
            for label, paths in generator.cut_outs.items()
            for path in paths
            for background in BACKGROUNDS
            for angle in angles
        ]
        x[split] = np.asarray(make_inference_fn(model, len(samples))(np.stack([image for _, image in samples])))
        y[split] = [label for label, _ in samples]
    return x["train"].shape[1], fit_classifier(x, y).score(x["test"], y["test"])


def render_object(cut_out: Image.Image, side: int, angle: float, background: tuple[int, int, int]) -> np.ndarray:
    """Return an object, rotated, centered on a square of one color and nine tenths as large."""
    obj = cut_out.convert("RGBA").rotate(angle, Image.Resampling.BICUBIC, expand=True)
    obj = obj.crop(obj.getbbox())
    scale = 0.9 * side / max(obj.size)
    obj = obj.resize([max(1, int(length * scale)) for length in obj.size], Image.Resampling.BICUBIC)
    image = Image.new("RGBA", (side, side), (*background, 255))
    image.alpha_composite(obj, ((side - obj.width) // 2, (side - obj.height) // 2))
    return np.asarray(image.convert("RGB"))


def fit_classifier(x: dict[str, np.ndarray], y: dict[str, list[str]]) -> Pipeline:
    """Fit logistic regression on standardized features, with the strength that is best on the validation split."""
    classifiers = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)).fit(x["train"], y["train"])
        for c in C_VALUES
    ]
    return max(classifiers, key=lambda classifier: classifier.score(x["val"], y["val"]))


def extract_center_features(levels: list[np.ndarray], objects: list[tuple[int, Object]]) -> np.ndarray:
    """Return the level features at the center of each object, (objects, features)."""
    features = []
    for scene_index, obj in objects:
        center_x, center_y = (obj.left + obj.right) / 2, (obj.top + obj.bottom) / 2
        sides = [len(level[scene_index]) for level in levels]
        features.append(
            [
                level[scene_index, int(center_y * side), int(center_x * side)]
                for level, side in zip(levels, sides, strict=True)
            ]
        )
    return np.stack([np.concatenate(level_features) for level_features in features])


def replace_classes(
    masks: np.ndarray, objects: list[tuple[int, Object]], classes: Sequence[str], labels: Sequence[str]
) -> np.ndarray:
    """Return true masks with predicted classes; crowds keep their class."""
    predictions, side = masks.copy(), masks.shape[1]
    for (scene_index, obj), label in zip(objects, classes, strict=True):
        rows = slice(int(obj.top * side), int(np.ceil(obj.bottom * side)))
        columns = slice(int(obj.left * side), int(np.ceil(obj.right * side)))
        is_object = masks[scene_index, rows, columns] == list(labels).index(obj.label)
        predictions[scene_index, rows, columns][is_object] = list(labels).index(label)
    return predictions


if __name__ == "__main__":
    main()
