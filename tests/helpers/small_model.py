"""Small network with random weights, and bundles of its exports, for tests of the stages after training."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.spec import parse_spec, parse_specs
from tfx_finetune.deploy.golden import GoldenSamples
from tfx_finetune.deploy.pack import create_bundle, describe_tower
from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.components import BACKBONES, EXPORTS, MODALITIES, TASKS, Modality, PretrainedCfg
from tfx_finetune.types.deployment import Servable
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import ClassLabels, Task

ABOUT = {"name": "fält", "description": "flat fields", "version": "2", "author": "", "license": "Apache-2.0"}
NAMES = ("ägg", "bär und café", "猫")


class Small(NamedTuple):
    """Model of images of 16 x 16 pixels, with samples and its outputs.

    Attributes:
        servable: Input of the exports.
        tasks: Tasks by head.
        specs: Task specs by head.
        modality: The modality image.
        pretrained_cfg: Configuration of the input.
        pixels: Prepared samples, uint8 (n, 16, 16, 3).
        raw: The samples as PNG files.
        answers: Decoded outputs of the model by name.
    """

    servable: Servable
    tasks: dict[str, Task]
    specs: Mapping[str, str]
    modality: Modality
    pretrained_cfg: PretrainedCfg
    pixels: np.ndarray
    raw: list[bytes]
    answers: Batch

    @property
    def golden(self) -> GoldenSamples:
        """Return the first eight samples and their outputs."""
        raw = [{"image": content} for content in self.raw[:8]]
        return GoldenSamples(raw, {"image": self.pixels[:8]}, {k: v[:8] for k, v in self.answers.items()})

    @property
    def targets(self) -> Batch:
        """Return the model's own predictions as targets, so that its scores are perfect."""
        scores = {head: self.answers[f"{head}/scores"] for head in self.tasks}
        best = {head: np.eye(len(NAMES))[values.argmax(-1)] for head, values in scores.items()}
        return {head: scores[head] > 0.5 if "tag" in self.specs[head] else best[head] for head in scores}


def small(specs: Mapping[str, str], seed: int = 0, count: int = 40) -> Small:
    """Make a network with these heads, such as {"kind": "classify()"}, and random samples."""
    keras.utils.set_random_seed(seed)
    backbone = BACKBONES.build(parse_spec("convnet(size=16, channels=3, widths=(4, 8))"))
    labels = ClassLabels(NAMES, (5, 10, 15), 30)
    tasks = {head: TASKS.build(parse_spec(spec), labels) for head, spec in specs.items()}
    heads = {head: task.head(backbone.features)["logits"] for head, task in tasks.items()}
    outputs = {f"{head}/scores": task.decode({"logits": heads[head]})["scores"] for head, task in tasks.items()}
    model = keras.Model({"image": backbone.inputs}, outputs)
    # Images of four flat fields, from dark to bright and from gray to colorful.
    brightness, saturation = np.random.rand(2, count, 1, 1, 1)
    fields = 255 * (brightness * (1 - saturation) + saturation * np.random.rand(count, 2, 2, 3))
    pixels = fields.round().astype(np.uint8).repeat(8, 1).repeat(8, 2)
    pooled = keras.Model(backbone.inputs, backbone.features.pooled)(pixels, training=False).numpy()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            kernel = np.random.normal(size=(pooled.shape[1], len(NAMES))) / (pooled.std(0) + 1e-3)[:, None]
            layer.set_weights([kernel, -pooled.mean(0) @ kernel])  # spreads the samples over all classes
    modality = MODALITIES.build(parse_spec("image"), backbone.pretrained_cfg)
    raw = [tf.io.encode_png(picture).numpy() for picture in pixels]
    answers = {name: value.numpy() for name, value in model({"image": pixels}, training=False).items()}
    names = dict.fromkeys(tasks, labels.names)

    def drop(predict: PredictFn) -> float:
        outputs = predict({"image": pixels})
        return max(float(np.abs(outputs[name] - scores).mean()) for name, scores in answers.items())

    servable = Servable(
        model, {"image": modality}, names, {"image": pixels[:20]}, ABOUT, score_drop_fn=drop, max_score_drop=0.05
    )
    return Small(servable, tasks, specs, modality, backbone.pretrained_cfg, pixels, raw, answers)


def write_bundle(path: Path, model: Small, exports: str) -> Bundle:
    """Write the bundle of a small model with these exports, without the results of their verification."""
    heads = {
        head: {"task": spec, "labels": list(NAMES), "counts": [5, 10, 15], "samples": 30}
        for head, spec in model.specs.items()
    }
    manifest = {"heads": heads, "towers": {"image": describe_tower("image", {}, model.pretrained_cfg)}}
    built_exports = {str(spec): EXPORTS.build(spec) for spec in parse_specs(exports)}
    return create_bundle(path, manifest, built_exports, model.servable)


def table(model: Small) -> Table:
    """Return the table of the samples."""
    count = len(model.raw)
    columns = [np.array([value] * count, dtype=object) for value in ("", "test", "猫")]
    files = np.array([f"{row}.png" for row in range(count)], dtype=object)
    return Table(files, columns[0], columns[0], columns[1], {"label": columns[2]})
