"""Naming: a sample is put beside what a text tower makes of its name, so that names never trained on can be asked."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.tasks.head import below, check_options
from tfx_finetune.tasks.text_embeddings import EMBEDDING, RECALLS, dim, embedded, retrieval
from tfx_finetune.types.components import BACKBONES, TASKS, Features, Labels, Space, Task

_SHOWN = 10


@TASKS.register
def name(
    labels: Labels,
    /,
    *,
    column: str = "label",
    tower: Spec = Spec("use_multilingual", (), {"size": 16}),  # noqa: B008 (frozen)
    hidden: int = 0,
    temperature: float = 0.05,
    dropout: float = 0.2,
) -> Task:
    """A name of any language: features are projected into the space of a multilingual text tower (DeViSE: Frome et al.,
    NeurIPS 2013), and told from other names by the softmax of cosines (CLIP: Radford et al., arXiv 2103.00020).

    The text tower is frozen. A class stands where the mean of its names, in all languages of `--names`, stands. Classes
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
    check_options(label_smoothing=0, focal=0, dropout=dropout, hidden=hidden)
    if BACKBONES.modality(tower.name) != "text":
        raise UserError("name() takes a tower of texts", received=str(tower), allowed="use_multilingual(), e5_small()")
    if temperature <= 0:
        raise UserError("temperature is out of range", received=temperature, allowed="above 0")
    names = tf.constant(labels.names)
    first = 5 if len(labels.names) > 5 else 1

    def among(classes: Any) -> Any:
        points = embedded(tower, classes)
        return lambda point: _said(tuple(classes), _softmax(points @ point / temperature))

    return Task(
        labels=labels,
        column=column,
        single=True,
        encode=lambda name: tf.cast(names == name, tf.float32),
        weight=lambda target: tf.constant(1.0),
        head=_projection(labels, tower, hidden, temperature, dropout),
        loss=_loss(labels),
        metrics=lambda: [keras.metrics.TopKCategoricalAccuracy(k=first, name=f"recall_{first}")],
        score=f"recall@{first}",
        decode=_decode,
        scores=_scores,
        correct=lambda targets, scores: (_ranks(targets, scores) < first).astype(np.float64),
        predict=lambda scores: _said(labels.names, scores),
        space=Space(among, lambda targets, points: retrieval(tower, targets, points, labels.translations)),
    )


def _projection(
    labels: Labels, tower: Spec, hidden: int, temperature: float, dropout: float
) -> Callable[[Features], dict[str, keras.KerasTensor]]:
    """A head that gives the point of a sample in the space of names, and how near the classes' points are."""

    def head(features: Features) -> dict[str, keras.KerasTensor]:
        x = keras.layers.Dense(dim(tower), dtype="float32")(below(features.pooled, dropout, hidden))
        point = keras.layers.UnitNormalization(dtype="float32")(x)
        near = Cosines(len(labels.names), temperature, dtype="float32")
        logits = near(point)
        near.points.assign(_points(tower, labels).T)
        return {"logits": logits, EMBEDDING: point}

    return head


def _loss(labels: Labels) -> keras.losses.Loss:
    """Cross-entropy. What a held-out sample is not, nobody learns: its name would be pushed away from all pictures."""
    untold = np.where(np.asarray(labels.counts) > 0, 0.0, -1e9).astype(np.float32)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    plain = loss.call
    loss.call = lambda target, logits: plain(target, logits + untold * (1 - target))
    return loss


def _decode(outputs: dict[str, Any]) -> dict[str, Any]:
    scores = {"scores": ops.softmax(outputs["logits"])}
    return scores | ({EMBEDDING: outputs[EMBEDDING]} if EMBEDDING in outputs else {})


def _points(tower: Spec, labels: Labels) -> np.ndarray:
    """Where each class stands, (classes, dim): the direction of the mean of its names in all languages."""
    listed = [labels.names, *labels.translations.values()]
    given = [tuple(name or own for name, own in zip(names, labels.names, strict=True)) for names in listed]
    mean = np.mean([embedded(tower, names) for names in given], axis=0)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def _scores(targets: np.ndarray, scores: np.ndarray, whole: bool = True) -> dict[str, Any]:
    """Among all names: the share of samples whose own is the first, or of the first 1, 5, 10."""
    ranks = _ranks(targets, scores)
    found = {f"recall@{most}": float((ranks < most).mean()) for most in RECALLS}
    return {"accuracy": found["recall@1"]} | found | {"per_class": {}}


def _ranks(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many other classes have a higher score than the sample's own, (n,)."""
    own = np.take_along_axis(scores, targets.argmax(-1)[:, None], -1)
    return (scores > own).sum(-1)


def _said(names: tuple[str, ...], scores: np.ndarray) -> dict[str, Any]:
    """The name, its score, and those of the ten nearest."""
    nearest = np.argsort(-scores, kind="stable")[:_SHOWN]
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
        self.points = self.add_weight(shape=(shape[-1], self.classes), trainable=False, name="points")

    def call(self, points: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return ops.matmul(points, self.points) / self.temperature

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return super().get_config() | {"classes": self.classes, "temperature": self.temperature}
