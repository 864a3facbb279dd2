"""Changes of texts: words dropped, swapped, unknown, in other letters (Wei and Zou, EDA, arXiv 1901.11196, and others).

A text without blanks, as Chinese and Japanese are written, is changed by the character.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS

_WordsFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
# What tokenizers know as no word; it stands for characters that cannot be shown.
_UNKNOWN = "\ufffd"


@AUGMENTS.register_for("text")
def word_dropout(probability: float = 0.1) -> AugmentFn:
    """Leaves words out, never all.

    Args:
        probability: Share of the words, 0 to 1.
    """

    def change(words: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        drawn = tf.random.stateless_uniform(tf.shape(words), seed)
        # The word with the largest draw stays in any case.
        return tf.boolean_mask(words, (drawn >= probability) | (drawn == tf.reduce_max(drawn)))

    return _make_word_augment("word_dropout", probability, change)


@AUGMENTS.register_for("text")
def unknown_words(probability: float = 0.1) -> AugmentFn:
    """Puts U+FFFD in the place of words, which tokenizers take for an unknown one: the model learns to do without.

    Args:
        probability: Share of the words, 0 to 1.
    """

    def change(words: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        drawn = tf.random.stateless_uniform(tf.shape(words), seed) < probability
        return tf.where(drawn, _UNKNOWN, words)

    return _make_word_augment("unknown_words", probability, change)


@AUGMENTS.register_for("text")
def swap_words(probability: float = 0.1) -> AugmentFn:
    """Swaps neighbouring words.

    Args:
        probability: Share of the pairs of neighbours that do not overlap, 0 to 1.
    """

    def change(words: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        count = tf.shape(words)[0]
        start = tf.random.stateless_uniform((), seed, 0, 2, tf.int32)
        pairs = tf.maximum(count - start, 0) // 2
        more = tf.random.experimental.stateless_fold_in(seed, 1)
        swapped = tf.repeat(tf.random.stateless_uniform((pairs,), more) < probability, 2)
        swapped = tf.pad(swapped, [[tf.minimum(start, count), count - tf.minimum(start, count) - 2 * pairs]])
        places = tf.range(count)
        return tf.gather(words, tf.where(swapped, places + 1 - 2 * ((places - start) % 2), places))

    return _make_word_augment("swap_words", probability, change)


@AUGMENTS.register_for("text")
def random_case(probability: float = 0.2) -> AugmentFn:
    """Writes texts in small letters or in capitals, each half of the times.

    Args:
        probability: Share of the texts that are changed, 0 to 1.
    """
    _check_probability("casing", probability)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        text, drawn = sample["text"], tf.random.stateless_uniform((), seed)
        lower, upper = (change(text, encoding="utf-8") for change in (tf.strings.lower, tf.strings.upper))
        changed = tf.where(drawn < probability / 2, lower, tf.where(drawn < probability, upper, text))
        return sample | {"text": changed}

    return apply


def _make_word_augment(name: str, probability: float, change: _WordsFn) -> AugmentFn:
    _check_probability(name, probability)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        text = sample["text"]
        words = tf.strings.split(text, " ")

        def characters() -> tf.Tensor:
            return tf.strings.reduce_join(change(tf.strings.unicode_split(text, "UTF-8"), seed))

        joined = tf.cond(
            tf.shape(words)[0] > 1,
            lambda: tf.strings.reduce_join(change(words, seed), separator=" "),
            characters,
        )
        return sample | {"text": joined}

    return apply


def _check_probability(name: str, probability: float) -> None:
    if not 0 <= probability <= 1:
        raise UserError(f"the probability of {name} is out of range", got=probability, expected="0 to 1")
