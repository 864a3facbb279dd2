"""Effects of the augments of texts."""

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


def fraction(spec, predicate, text=TEXT, count=600):
    return sum(predicate(apply(spec, seed, text)) for seed in range(count)) / count


def test_word_dropout():
    """Words keep their order, at least one word stays, and the stated fraction is removed on average."""
    lengths = []
    for seed in range(200):
        words = apply("word_dropout(probability=0.3)", seed).split(" ")
        remaining = iter(TEXT.split(" "))
        assert all(word in remaining for word in words)
        lengths.append(len(words))
    assert 6.7 < sum(lengths) / 200 < 7.4  # 7.03 expected, standard deviation of the mean 0.1
    assert len(apply("word_dropout(probability=1)", 1).split(" ")) == 1
    assert len(apply("word_dropout(probability=1)", 1, CHINESE)) == 1


def test_swap_words():
    """The words are the same, and each moves by at most one position."""
    for seed in range(50):
        words = apply("swap_words(probability=0.5)", seed).split(" ")
        assert Counter(words) == Counter(TEXT.split(" "))
        assert all(abs(words.index(word) - position) <= 1 for position, word in enumerate(TEXT.split(" ")))
    results = {apply("swap_words(probability=1)", seed, "a b c") for seed in range(20)}
    assert results == {"b a c", "a c b"}


def test_unknown_words():
    """The stated fraction of the words is replaced by U+FFFD."""
    results = [apply("unknown_words(probability=0.2)", seed).split(" ") for seed in range(100)]
    for words in results:
        assert all(word in (original, "\ufffd") for word, original in zip(words, TEXT.split(" "), strict=True))
    assert 160 < sum(words.count("\ufffd") for words in results) < 240  # 200 expected, standard deviation 13


def test_random_case():
    """Half of the changed texts are upper case and half lower case, in any script."""
    assert 0.15 < fraction("random_case(probability=0.4)", lambda text: text == TEXT.upper()) < 0.25
    assert 0.15 < fraction("random_case(probability=0.4)", lambda text: text == TEXT.lower()) < 0.25
    assert {apply("random_case(probability=1)", seed, "Ёлка") for seed in range(20)} == {"ЁЛКА", "ёлка"}


@pytest.mark.parametrize("name", NAMES)
def test_options_out_of_range_are_rejected(name):
    """A probability of 2 is an error."""
    message = rf"Options of {name}\(\) are out of range: probability=2\. Expected: 0 <= probability <= 1\."
    with pytest.raises(UserError, match=message):
        AUGMENTS.build(Spec(name, (), {"probability": 2}))
