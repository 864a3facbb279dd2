"""Augments of texts that drop, replace or swap words (EDA, Wei and Zou, arXiv 1901.11196) or change their case.

A text without spaces, such as Chinese or Japanese, is changed by character instead of by word.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfx_finetune.datasets.augments.common import check_options
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS

_WordsFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(Words (n,), stateless seed (2,)) -> words (m,)."""
# The replacement character, which tokenizers map to their unknown token.
_UNKNOWN = "\ufffd"


@AUGMENTS.register_for("text")
def word_dropout(probability: float = 0.1) -> AugmentFn:
    """Remove random words, but at least one word stays.

    Args:
        probability: float, 0 to 1. Probability that a word is removed. Default 0.1.
    """

    def drop(words: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        random = tf.random.stateless_uniform(tf.shape(words), seed)
        # The word with the largest random number always stays.
        return tf.boolean_mask(words, (random >= probability) | (random == tf.reduce_max(random)))

    return _make_word_augment("word_dropout", probability, drop)


@AUGMENTS.register_for("text")
def unknown_words(probability: float = 0.1) -> AugmentFn:
    """Replace random words by U+FFFD, an unknown token, so that the model does not rely on single words.

    Args:
        probability: float, 0 to 1. Probability that a word is replaced. Default 0.1.
    """

    def replace(words: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        is_replaced = tf.random.stateless_uniform(tf.shape(words), seed) < probability
        return tf.where(is_replaced, _UNKNOWN, words)

    return _make_word_augment("unknown_words", probability, replace)


@AUGMENTS.register_for("text")
def swap_words(probability: float = 0.1) -> AugmentFn:
    """Swap random pairs of adjacent words.

    Args:
        probability: float, 0 to 1. Probability that a pair is swapped, among pairs that do not overlap. Default 0.1.
    """

    def swap(words: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        count = tf.shape(words)[0]
        start = tf.random.stateless_uniform((), seed, 0, 2, tf.int32)
        num_pairs = tf.maximum(count - start, 0) // 2
        pair_seed = tf.random.experimental.stateless_fold_in(seed, 1)
        is_swapped = tf.repeat(tf.random.stateless_uniform((num_pairs,), pair_seed) < probability, 2)
        before = tf.minimum(start, count)
        is_swapped = tf.pad(is_swapped, [[before, count - before - 2 * num_pairs]])
        indices = tf.range(count)
        return tf.gather(words, tf.where(is_swapped, indices + 1 - 2 * ((indices - start) % 2), indices))

    return _make_word_augment("swap_words", probability, swap)


@AUGMENTS.register_for("text")
def random_case(probability: float = 0.2) -> AugmentFn:
    """Convert texts to lower case or upper case, with equal probability.

    Args:
        probability: float, 0 to 1. Probability of a conversion. Default 0.2.
    """
    check_options("random_case", 0 <= probability <= 1, "0 <= probability <= 1", probability=probability)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        text, random = sample["text"], tf.random.stateless_uniform((), seed)
        lower, upper = (convert(text, encoding="utf-8") for convert in (tf.strings.lower, tf.strings.upper))
        converted = tf.where(random < probability / 2, lower, tf.where(random < probability, upper, text))
        return sample | {"text": converted}

    return apply


def _make_word_augment(name: str, probability: float, change_words: _WordsFn) -> AugmentFn:
    check_options(name, 0 <= probability <= 1, "0 <= probability <= 1", probability=probability)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        text = sample["text"]
        words = tf.strings.split(text, " ")
        changed = tf.cond(
            tf.shape(words)[0] > 1,
            lambda: tf.strings.reduce_join(change_words(words, seed), separator=" "),
            lambda: tf.strings.reduce_join(change_words(tf.strings.unicode_split(text, "UTF-8"), seed)),
        )
        return sample | {"text": changed}

    return apply
