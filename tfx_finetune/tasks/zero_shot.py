"""Zero-shot task: samples are projected into the space of text embeddings of their names."""

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

_MAX_PREDICTIONS = 10


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
    """Zero-shot classification by names in any language.

    Features are projected into the embedding space of a frozen multilingual text tower (DeViSE: Frome et al., NeurIPS
    2013) and classified by a softmax of cosine similarities (CLIP: Radford et al., arXiv 2103.00020). The embedding of
    a class is the mean of its names in all languages of `--label_translations`. Classes without training samples can be
    tested, and `predict --classes` gives other names. The score is the recall at 5, or at 1 with up to five classes.

    Args:
        labels: Classes with their training counts and their names by language.
        column: Column of the sample with the class name. Default `label`.
        tower: Spec of the text backbone, which must know the languages. Default `use_multilingual(size=16)`.
        hidden_units: int >= 0. Units of a hidden layer between features and projection; 0 for none. Default 0.
        temperature: float > 0. Divides the cosine similarities. Default 0.05.
        dropout: float, 0 to below 1. Dropout rate of the features. Default 0.2.
    """
    check_options("zero_shot", label_smoothing=0, focal=0, dropout=dropout, hidden_units=hidden_units)
    if BACKBONES.get_modality(tower.name) != "text":
        raise UserError(
            "tower of zero_shot() must be a text backbone", got=tower, expected="use_multilingual(), e5_small()"
        )
    if temperature <= 0:
        raise UserError("temperature of zero_shot() is out of range", got=temperature, expected="above 0")
    names = tf.constant(labels.names)
    k = 5 if len(labels.names) > 5 else 1

    def make_classifier(classes: Any) -> Any:
        class_embeddings = embed_texts(tower, classes)
        return lambda embedding: _format_prediction(
            tuple(classes), _softmax(class_embeddings @ embedding / temperature)
        )

    return Task(
        labels=labels,
        column=column,
        single_label=True,
        encode=lambda name: tf.cast(names == name, tf.float32),
        weight=lambda target: tf.constant(1.0),
        head=_make_projection_head(labels, tower, hidden_units, temperature, dropout),
        loss=_make_loss(labels),
        make_metrics=lambda: [keras.metrics.TopKCategoricalAccuracy(k=k, name=f"recall_{k}")],
        monitor=f"recall@{k}",
        decode=_decode,
        compute_metrics=_compute_metrics,
        per_sample_score=lambda targets, scores: (_rank_targets(targets, scores) < k).astype(np.float64),
        format_prediction=lambda scores: _format_prediction(labels.names, scores),
        zero_shot=ZeroShotSpace(
            make_classifier,
            lambda targets, embeddings: compute_retrieval_metrics(tower, targets, embeddings, labels.translations),
        ),
    )


def _make_projection_head(
    labels: ClassLabels, tower: Spec, hidden_units: int, temperature: float, dropout: float
) -> Callable[[Features], dict[str, keras.KerasTensor]]:
    """Return a head that outputs the embedding of a sample and its similarities to the classes."""

    def head(features: Features) -> dict[str, keras.KerasTensor]:
        x = keras.layers.Dense(get_embedding_dim(tower), dtype="float32")(
            add_hidden_layer(features.pooled, dropout, hidden_units)
        )
        embedding = keras.layers.UnitNormalization(dtype="float32")(x)
        cosines = Cosines(len(labels.names), temperature, dtype="float32")
        logits = cosines(embedding)
        cosines.class_embeddings.assign(_embed_classes(tower, labels).T)
        return {"logits": logits, EMBEDDING: embedding}

    return head


def _make_loss(labels: ClassLabels) -> keras.losses.Loss:
    """Return the cross-entropy over the classes with training samples.

    Without the mask, training would push all samples away from the names of the other classes.
    """
    mask = np.where(np.asarray(labels.counts) > 0, 0.0, -1e9).astype(np.float32)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    call = loss.call
    loss.call = lambda target, logits: call(target, logits + mask * (1 - target))
    return loss


def _decode(outputs: dict[str, Any]) -> dict[str, Any]:
    scores = {"scores": ops.softmax(outputs["logits"])}
    return scores | ({EMBEDDING: outputs[EMBEDDING]} if EMBEDDING in outputs else {})


def _embed_classes(tower: Spec, labels: ClassLabels) -> np.ndarray:
    """Embed each class as the normalized mean embedding of its names in all languages, (classes, dim)."""
    names_by_language = [
        tuple(translation or name for translation, name in zip(names, labels.names, strict=True))
        for names in (labels.names, *labels.translations.values())
    ]
    mean = np.mean([embed_texts(tower, names) for names in names_by_language], axis=0)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def _compute_metrics(targets: np.ndarray, scores: np.ndarray, full_report: bool = True) -> dict[str, Any]:
    """Compute accuracy, and recall at 1, 5 and 10 among the names of all classes."""
    ranks = _rank_targets(targets, scores)
    recalls = {f"recall@{k}": float((ranks < k).mean()) for k in RECALL_AT}
    return {"accuracy": recalls["recall@1"]} | recalls | {"per_class": {}}


def _rank_targets(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Count the classes with a higher score than the true class of each sample, (n,)."""
    true_scores = np.take_along_axis(scores, targets.argmax(-1)[:, None], -1)
    return (scores > true_scores).sum(-1)


def _format_prediction(names: tuple[str, ...], scores: np.ndarray) -> dict[str, Any]:
    """Return the best name, its score, and the scores of the ten best names."""
    best = np.argsort(-scores, kind="stable")[:_MAX_PREDICTIONS]
    best_scores = {names[index]: float(scores[index]) for index in best}
    return {"label": names[best[0]], "score": float(scores[best[0]]), "scores": best_scores}


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


@keras.saving.register_keras_serializable("tfx_finetune")
class Cosines(keras.layers.Layer):
    """Cosine similarities of L2-normalized embeddings to fixed class embeddings, divided by a temperature.

    Args:
        classes: int. Number of classes.
        temperature: float > 0.
        **options: Options of a Keras layer.
    """

    def __init__(self, classes: int, temperature: float, **options: Any) -> None:
        super().__init__(**options)
        self.classes, self.temperature = classes, temperature

    def build(self, shape: tuple) -> None:  # noqa: D102
        self.class_embeddings = self.add_weight(shape=(shape[-1], self.classes), trainable=False, name="points")

    def call(self, embeddings: keras.KerasTensor) -> keras.KerasTensor:
        """Compute the similarities, (batch, classes), of embeddings (batch, dim)."""
        return ops.matmul(embeddings, self.class_embeddings) / self.temperature

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return super().get_config() | {"classes": self.classes, "temperature": self.temperature}
