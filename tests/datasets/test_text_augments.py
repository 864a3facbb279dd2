"""Augments of texts: what each does."""

from collections import Counter

import pytest
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.types.components import AUGMENTS

TEXT = "Eins zwei DREI vier fünf sechs sieben acht neun zehn"
CHINESE = "这本书非常好我很喜欢"
NAMES = [name for name in AUGMENTS if AUGMENTS.get_modality(name) == "text"]


def apply(spec, seed, text=TEXT):
    augment = AUGMENTS.build(parse_spec(spec))
    sample = augment({"text": tf.constant(text), "label": tf.constant("x")}, tf.constant([seed, 7], tf.int64))
    assert sample["label"] == b"x"
    return sample["text"].numpy().decode()


def share(spec, happened, text=TEXT, count=600):
    return sum(happened(apply(spec, seed, text)) for seed in range(count)) / count


def test_word_dropout():
    """The words that are left stand in order, and there is always one; on average the stated share is gone."""
    lengths = []
    for seed in range(200):
        left = apply("word_dropout(probability=0.3)", seed).split(" ")
        rest = iter(TEXT.split(" "))
        assert all(word in rest for word in left)
        lengths.append(len(left))
    assert 6.7 < sum(lengths) / 200 < 7.4  # 7.03 expected, standard deviation of the mean 0.1
    assert len(apply("word_dropout(probability=1)", 1).split(" ")) == 1
    assert len(apply("word_dropout(probability=1)", 1, CHINESE)) == 1


def test_swap_words():
    """The same words, each at most one place off."""
    for seed in range(50):
        words = apply("swap_words(probability=0.5)", seed).split(" ")
        assert Counter(words) == Counter(TEXT.split(" "))
        assert all(abs(words.index(word) - place) <= 1 for place, word in enumerate(TEXT.split(" ")))
    both = {apply("swap_words(probability=1)", seed, "a b c") for seed in range(20)}
    assert both == {"b a c", "a c b"}


def test_unknown_words():
    """In their place, and as many as stated."""
    found = [apply("unknown_words(probability=0.2)", seed).split(" ") for seed in range(100)]
    for words in found:
        assert all(word in (given, "\ufffd") for word, given in zip(words, TEXT.split(" "), strict=True))
    assert 160 < sum(words.count("\ufffd") for words in found) < 240  # 200 expected, standard deviation 13


def test_casing():
    """Half of the changed texts in capitals, half in small letters, in any script."""
    assert 0.15 < share("random_case(probability=0.4)", lambda text: text == TEXT.upper()) < 0.25
    assert 0.15 < share("random_case(probability=0.4)", lambda text: text == TEXT.lower()) < 0.25
    assert {apply("random_case(probability=1)", seed, "Ёлка") for seed in range(20)} == {"ЁЛКА", "ёлка"}


@pytest.mark.parametrize("name", NAMES)
def test_ranges_are_checked(name):
    """A probability of 2 is a mistake, not a certainty."""
    with pytest.raises(UserError, match=f"the probability of {name} is out of range; received: 2; allowed: 0 to 1"):
        AUGMENTS.build(Spec(name, (), {"probability": 2}))
