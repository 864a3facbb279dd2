"""Naming: a sample is put beside what a text tower makes of its name, so that names never trained on can be asked."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.tasks.head import add_hidden_layer, check_options
from tfx_finetune.tasks.text_embeddings import (
    EMBEDDING,
    RECALL_AT,
    compute_retrieval_metrics,
    embed_texts,
    get_embedding_dim,
)
from tfx_finetune.types.components import BACKBONES, TASKS, Features
from tfx_finetune.types.task import ClassLabels, Task, ZeroShotSpace

_MAX_SHOWN = 10


@TASKS.register
def zero_shot(
    labels: ClassLabels,
    /,
    *,
    column: str = "label",
    tower: Spec = Spec("use_multilingual", (), {"size": 16}),  # noqa: B008 (frozen)
    hidden_units: int = 0,
    temperature: float = 0.05,
    dropout: float = 0.2,
) -> Task:
    """A name of any language: features are projected into the space of a multilingual text tower (DeViSE: Frome et al.,
    NeurIPS 2013), and told from other names by the softmax of cosines (CLIP: Radford et al., arXiv 2103.00020).

    The text tower is frozen. A class stands where the mean of its names, in all languages of `--label_translations`, stands. Classes
    without training samples may be held out to be tested, and `predict --classes` names others. The score is the share
    of samples whose own name is among the first five; of five names and fewer, the first.

    Args:
        labels: The classes, their training counts, and their names by language.
        column: The sample's column with the name.
        tower: Of texts; it has to know the languages.
        hidden: Numbers of a layer between features and projection; 0 for none.
        temperature: By which cosines are divided, above 0.
        dropout: Share of features dropped before the head in training, 0 to below 1.
    """
    check_options(label_smoothing=0, focal=0, dropout=dropout, hidden_units=hidden_units)
    if BACKBONES.get_modality(tower.name) != "text":
        raise UserError("zero_shot() takes a tower of texts", got=str(tower), expected="use_multilingual(), e5_small()")
    if temperature <= 0:
        raise UserError("temperature is out of range", got=temperature, expected="above 0")
    names = tf.constant(labels.names)
    first = 5 if len(labels.names) > 5 else 1

    def among(classes: Any) -> Any:
        points = embed_texts(tower, classes)
        return lambda point: _format_prediction(tuple(classes), _softmax(points @ point / temperature))

    return Task(
        labels=labels,
        column=column,
        single_label=True,
        encode=lambda name: tf.cast(names == name, tf.float32),
        weight=lambda target: tf.constant(1.0),
        head=_make_projection_head(labels, tower, hidden_units, temperature, dropout),
        loss=_make_loss(labels),
        make_metrics=lambda: [keras.metrics.TopKCategoricalAccuracy(k=first, name=f"recall_{first}")],
        monitor=f"recall@{first}",
        decode=_decode,
        compute_metrics=_compute_metrics,
        per_sample_score=lambda targets, scores: (_rank_targets(targets, scores) < first).astype(np.float64),
        format_prediction=lambda scores: _format_prediction(labels.names, scores),
        zero_shot=ZeroShotSpace(
            among, lambda targets, points: compute_retrieval_metrics(tower, targets, points, labels.translations)
        ),
    )


def _make_projection_head(
    labels: ClassLabels, tower: Spec, hidden_units: int, temperature: float, dropout: float
) -> Callable[[Features], dict[str, keras.KerasTensor]]:
    """A head that gives the point of a sample in the space of names, and how near the classes' points are."""

    def head(features: Features) -> dict[str, keras.KerasTensor]:
        x = keras.layers.Dense(get_embedding_dim(tower), dtype="float32")(
            add_hidden_layer(features.pooled, dropout, hidden_units)
        )
        point = keras.layers.UnitNormalization(dtype="float32")(x)
        near = Cosines(len(labels.names), temperature, dtype="float32")
        logits = near(point)
        near.class_embeddings.assign(_embed_classes(tower, labels).T)
        return {"logits": logits, EMBEDDING: point}

    return head


def _make_loss(labels: ClassLabels) -> keras.losses.Loss:
    """Cross-entropy. What a held-out sample is not, nobody learns: its name would be pushed away from all pictures."""
    untold = np.where(np.asarray(labels.counts) > 0, 0.0, -1e9).astype(np.float32)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    plain = loss.call
    loss.call = lambda target, logits: plain(target, logits + untold * (1 - target))
    return loss


def _decode(outputs: dict[str, Any]) -> dict[str, Any]:
    scores = {"scores": ops.softmax(outputs["logits"])}
    return scores | ({EMBEDDING: outputs[EMBEDDING]} if EMBEDDING in outputs else {})


def _embed_classes(tower: Spec, labels: ClassLabels) -> np.ndarray:
    """Where each class stands, (classes, dim): the direction of the mean of its names in all languages."""
    listed = [labels.names, *labels.translations.values()]
    given = [tuple(name or own for name, own in zip(names, labels.names, strict=True)) for names in listed]
    mean = np.mean([embed_texts(tower, names) for names in given], axis=0)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def _compute_metrics(targets: np.ndarray, scores: np.ndarray, full_report: bool = True) -> dict[str, Any]:
    """Among all names: the share of samples whose own is the first, or of the first 1, 5, 10."""
    ranks = _rank_targets(targets, scores)
    found = {f"recall@{most}": float((ranks < most).mean()) for most in RECALL_AT}
    return {"accuracy": found["recall@1"]} | found | {"per_class": {}}


def _rank_targets(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many other classes have a higher score than the sample's own, (n,)."""
    own = np.take_along_axis(scores, targets.argmax(-1)[:, None], -1)
    return (scores > own).sum(-1)


def _format_prediction(names: tuple[str, ...], scores: np.ndarray) -> dict[str, Any]:
    """The name, its score, and those of the ten nearest."""
    nearest = np.argsort(-scores, kind="stable")[:_MAX_SHOWN]
    shown = {names[at]: float(scores[at]) for at in nearest}
    return {"label": names[nearest[0]], "score": float(scores[nearest[0]]), "scores": shown}


def _softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max())
    return grown / grown.sum()


@keras.saving.register_keras_serializable("tfx_finetune")
class Cosines(keras.layers.Layer):
    """Cosines between points of unit length (batch, dim) and those of classes, which are not trained, divided by a
    temperature: (batch, classes).
    """

    def __init__(self, classes: int, temperature: float, **options: Any) -> None:
        super().__init__(**options)
        self.classes, self.temperature = classes, temperature

    def build(self, shape: tuple) -> None:  # noqa: D102
        self.class_embeddings = self.add_weight(shape=(shape[-1], self.classes), trainable=False, name="points")

    def call(self, points: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return ops.matmul(points, self.class_embeddings) / self.temperature

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return super().get_config() | {"classes": self.classes, "temperature": self.temperature}
