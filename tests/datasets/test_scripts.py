"""Letters and words drawn in the fonts of several scripts."""

from collections import Counter

import numpy as np
import pytest

from tests.helpers.assets import asset
from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.types.components import SOURCES


def rows(spec, part):
    return list(SOURCES.build(parse_spec(spec)).read(part).as_numpy_iterator())


def test_every_letter_in_every_font():
    """24 Greek letters with the final sigma, 26 Latin ones; two fonts a part, each letter so many times."""
    asset("noto-fonts")
    source = SOURCES.build(parse_spec("scripts(names=('Greek', 'Latin'), repeats=2, size=24)"))
    assert source.sizes == {"train": 2 * 2 * (25 + 26), "test": 2 * 2 * (25 + 26)}
    train, test = ([*source.read(part).as_numpy_iterator()] for part in ("train", "test"))
    assert Counter(row["script"] for row in train) == {b"Greek": 100, b"Latin": 104}
    assert {row["source"] for row in train} == {b"sans"}
    assert {row["source"] for row in test} == {b"serif"}
    assert {row["label"].decode() for row in train if row["script"] == b"Latin"} == set("abcdefghijklmnopqrstuvwxyz")
    pictures = np.stack([row["image"] for row in train])
    assert pictures.shape[1:] == (24, 24, 1)
    # Black on white, of every letter some, never cut by the edge.
    dark = (pictures < 128).mean((1, 2, 3))
    assert 0.01 < dark.min() < dark.max() < 0.5
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    again = np.stack([row["image"] for row in source.read("train").as_numpy_iterator()])
    assert np.array_equal(pictures, again)


def test_bold_letters_are_darker_and_fonts_have_all_scripts():
    """A font that lacks a letter would draw the same box for each."""
    asset("noto-fonts")
    for script in ("Arabic", "Devanagari", "Hebrew", "Tamil", "Thai"):
        drawn = rows(f"scripts(names=('{script}',), repeats=1, size=32)", "test")
        light, bold = (
            np.stack([row["image"] for row in drawn if kind in row["file"].decode()]) for kind in ("Regular", "Bold")
        )
        assert bold.mean() < light.mean()
        wide = [(picture < 128).any((0, 2)).sum() / (picture < 128).any((1, 2)).sum() for picture in light]
        assert len(np.unique(np.round(wide, 2))) > len(wide) / 3


def test_words_are_the_digits_of_a_scripts_languages():
    """Two of Arabic letters, one of Greek; ten words each, in two fonts a style."""
    asset("noto-fonts")
    asset("cldr-rbnf")
    found = rows("scripts(kind='words', names=('Greek', 'Arabic'), repeats=1, size=64, test='')", "all")
    assert Counter(row["script"] for row in found) == {b"Arabic": 2 * 4 * 10, b"Greek": 4 * 10}
    assert {row["label"].decode() for row in found} == set("0123456789")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("scripts(names=('Grek',))", "no letters of such a script; received: Grek; allowed: Arabic, "),
        ("scripts(kind='words', names=('Bengali',))", "no words of such a script; received: Bengali"),
        ("scripts(size=8)", "scripts is out of range; received: size=8, each=6"),
        ("scripts(repeats=0)", "scripts is out of range; received: size=48, each=0"),
        ("scripts(test='bold')", "wrong value for test"),
    ],
)
def test_what_cannot_be_drawn(spec, said):
    """One line."""
    assert said in complaint(lambda: SOURCES.build(parse_spec(spec)))
