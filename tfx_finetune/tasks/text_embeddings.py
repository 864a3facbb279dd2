"""Names of classes as points: what a text tower makes of them, in any language, so that others can be named later."""

import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.ops.tf_data import with_prefetch
from tfx_finetune.types.components import BACKBONES, MODALITIES

EMBEDDING = "embedding"
"""Output of a head whose classes are points: that of the sample, unit length, (batch, dim)."""

RECALL_AT = (1, 5, 10)
RETRIEVAL_METRICS = (*(f"recall@{most}" for most in RECALL_AT), "chance@5")
"""Scores that a language has."""


def embed_texts(tower: Spec, texts: Sequence[str]) -> np.ndarray:
    """What a text tower makes of texts, as points of unit length, (n, dim).

    Raises:
        UserError: The tower has random weights.
    """
    return _embed_texts(str(tower), tuple(texts))


# A run asks for the same names when it builds its head, and of every file that it verifies.
@functools.lru_cache(maxsize=256)
def _embed_texts(tower: str, texts: tuple[str, ...]) -> np.ndarray:
    prepare, model = _build_text_tower(tower)
    batches = tf.data.Dataset.from_tensor_slices(list(texts)).map(prepare).batch(64)
    points = np.concatenate([model(tokens, training=False).numpy() for tokens in with_prefetch(batches)])
    return points / np.maximum(np.linalg.norm(points, axis=-1, keepdims=True), 1e-9)


@functools.lru_cache(maxsize=1)
def _build_text_tower(tower: str) -> tuple[Callable[[tf.Tensor], tf.Tensor], Callable]:
    backbone = BACKBONES.build(parse_spec(tower))
    if not backbone.card.origin:  # other weights, and other points, at every start
        raise UserError("names are put by a tower that was trained", got=tower, expected="one with weights")
    modality = MODALITIES.build(Spec(backbone.modality), backbone.card)
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    return lambda text: modality.prepare(modality.decode(text)), tf.function(model, reduce_retracing=True)


def get_embedding_dim(tower: Spec) -> int:
    """Numbers in a point of a text tower."""
    return embed_texts(tower, ("a",)).shape[-1]


def compute_retrieval_metrics(
    tower: Spec, targets: np.ndarray, embeddings: np.ndarray, translations: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """How often a sample's name is among the nearest ones, of the names that the samples have, in each language.

    Args:
        tower: What makes points of names.
        targets: One class a sample, (n, classes).
        points: Of the samples, (n, dim).
        translations: The names of the classes by language, empty where one is not known.

    Returns:
        `recall@1[es]`, `recall@5[es]`, `recall@10[es]` and, by guessing, `chance@5[es]` for each language: the share of
        samples whose name is among the 1, 5 or 10 nearest. Classes of one name count as one.
    """
    found: dict[str, float] = {}
    truth = targets.argmax(-1)
    for language, names in translations.items():
        known = np.array([bool(names[one]) for one in truth])
        own = [names[one] for one in truth[known]]
        listed = sorted(set(own))
        if len(listed) < 2:
            continue
        near = embeddings[known] @ embed_texts(tower, listed).T
        right = near[np.arange(len(own)), [listed.index(name) for name in own]]
        ranks = (near > right[:, None]).sum(-1)
        found |= {f"recall@{most}[{language}]": float((ranks < most).mean()) for most in RECALL_AT}
        found[f"chance@5[{language}]"] = min(5 / len(listed), 1.0)
    return found
