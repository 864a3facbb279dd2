"""Multilingual text embeddings of class names, for zero-shot classification."""

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
"""Output of a zero-shot head: L2-normalized embedding of the sample, (batch, dim)."""

RECALL_AT = (1, 5, 10)
RETRIEVAL_METRICS = (*(f"recall@{k}" for k in RECALL_AT), "chance@5")
"""Names of the scores of each language."""


def embed_texts(tower: Spec, texts: Sequence[str]) -> np.ndarray:
    """Embed texts with a text backbone, L2-normalized, (n, dim).

    Raises:
        UserError: If the backbone has random weights.
    """
    return _embed_texts(str(tower), tuple(texts))


# A run embeds the same names when it builds its head and when it verifies each file.
@functools.lru_cache(maxsize=256)
def _embed_texts(tower: str, texts: tuple[str, ...]) -> np.ndarray:
    prepare, model = _build_text_tower(tower)
    batches = tf.data.Dataset.from_tensor_slices(list(texts)).map(prepare).batch(64)
    embeddings = np.concatenate([model(tokens, training=False).numpy() for tokens in with_prefetch(batches)])
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-9)


@functools.lru_cache(maxsize=1)
def _build_text_tower(tower: str) -> tuple[Callable[[tf.Tensor], tf.Tensor], Callable]:
    backbone = BACKBONES.build(parse_spec(tower))
    if not backbone.pretrained_cfg.origin:  # random weights would give other embeddings in every process
        raise UserError("zero_shot() needs a pretrained text tower", got=f"{tower} with random weights")
    modality = MODALITIES.build(Spec(backbone.modality), backbone.pretrained_cfg)
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    return lambda text: modality.prepare(modality.decode(text)), tf.function(model, reduce_retracing=True)


def get_embedding_dim(tower: Spec) -> int:
    """Return the number of dimensions of a text backbone's embeddings."""
    return embed_texts(tower, ("a",)).shape[-1]


def compute_retrieval_metrics(
    tower: Spec, targets: np.ndarray, embeddings: np.ndarray, translations: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Compute how often the name of a sample is among the nearest names, in each language.

    Args:
        tower: Spec of the text backbone.
        targets: One-hot (n, classes).
        embeddings: (n, dim). Embeddings of the samples.
        translations: Class names by language; empty for a missing name.

    Returns:
        `recall@1[es]`, `recall@5[es]`, `recall@10[es]` for each language: fraction of the samples whose name is among
        the 1, 5 or 10 nearest of the names that the samples have; and `chance@5[es]`, the recall of random guesses.
        Classes with the same name count as one.
    """
    scores: dict[str, float] = {}
    truth = targets.argmax(-1)
    for language, names in translations.items():
        has_name = np.array([bool(names[label]) for label in truth])
        sample_names = [names[label] for label in truth[has_name]]
        candidates = sorted(set(sample_names))
        if len(candidates) < 2:
            continue
        similarity = embeddings[has_name] @ embed_texts(tower, candidates).T
        true_similarity = similarity[np.arange(len(sample_names)), [candidates.index(name) for name in sample_names]]
        ranks = (similarity > true_similarity[:, None]).sum(-1)
        scores |= {f"recall@{k}[{language}]": float((ranks < k).mean()) for k in RECALL_AT}
        scores[f"chance@5[{language}]"] = min(5 / len(candidates), 1.0)
    return scores
