"""Letters and words drawn in the fonts of several scripts."""

from collections import Counter

import numpy as np
import pytest

from tests.helpers.assets import fetch_asset
from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.types.components import SOURCES


def rows(spec, part):
    return list(SOURCES.build(parse_spec(spec)).read(part).as_numpy_iterator())


def test_every_letter_in_every_font():
    """25 Greek letters (with the final sigma) and 26 Latin letters are drawn in two fonts per split."""
    fetch_asset("noto-fonts")
    source = SOURCES.build(parse_spec("scripts(names=('Greek', 'Latin'), repeats=2, size=24)"))
    assert source.sizes == {"train": 2 * 2 * (25 + 26), "test": 2 * 2 * (25 + 26)}
    train, test = ([*source.read(part).as_numpy_iterator()] for part in ("train", "test"))
    assert Counter(row["script"] for row in train) == {b"Greek": 100, b"Latin": 104}
    assert {row["source"] for row in train} == {b"sans"}
    assert {row["source"] for row in test} == {b"serif"}
    assert {row["label"].decode() for row in train if row["script"] == b"Latin"} == set("abcdefghijklmnopqrstuvwxyz")
    images = np.stack([row["image"] for row in train])
    assert images.shape[1:] == (24, 24, 1)
    # Some pixels of every letter are dark, but not most.
    dark = (images < 128).mean((1, 2, 3))
    assert 0.01 < dark.min() < dark.max() < 0.5
    assert len({image.tobytes() for image in images}) == len(images)
    images_again = np.stack([row["image"] for row in source.read("train").as_numpy_iterator()])
    assert np.array_equal(images, images_again)


def test_bold_letters_are_darker_and_fonts_have_all_scripts():
    """Letters of a script differ in width; a font without them would draw equal boxes."""
    fetch_asset("noto-fonts")
    for script in ("Arabic", "Devanagari", "Hebrew", "Tamil", "Thai"):
        samples = rows(f"scripts(names=('{script}',), repeats=1, size=32)", "test")
        light, bold = (
            np.stack([row["image"] for row in samples if kind in row["file"].decode()]) for kind in ("Regular", "Bold")
        )
        assert bold.mean() < light.mean()
        aspect_ratios = [(image < 128).any((0, 2)).sum() / (image < 128).any((1, 2)).sum() for image in light]
        assert len(np.unique(np.round(aspect_ratios, 2))) > len(aspect_ratios) / 3


def test_words_are_digits_in_the_languages_of_a_script():
    """Arabic has two languages, Greek one; each has ten words in four fonts."""
    fetch_asset("noto-fonts")
    fetch_asset("cldr-rbnf")
    samples = rows("scripts(kind='words', names=('Greek', 'Arabic'), repeats=1, size=64, test='')", "all")
    assert Counter(row["script"] for row in samples) == {b"Arabic": 2 * 4 * 10, b"Greek": 4 * 10}
    assert {row["label"].decode() for row in samples} == set("0123456789")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scripts(names=('Grek',))", "scripts() has no letters of the script: Grek. Expected: Arabic, "),
        ("scripts(kind='words', names=('Bengali',))", "scripts() has no words of the script: Bengali. "),
        ("scripts(size=8)", "An option of scripts() is out of range: size=8, repeats=6. "),
        ("scripts(repeats=0)", "An option of scripts() is out of range: size=48, repeats=0. "),
        ("scripts(test='bold')", "Wrong value for test of source scripts: 'bold'. "),
    ],
)
def test_invalid_options(spec, message):
    """Invalid options are refused."""
    assert message in complaint(lambda: SOURCES.build(parse_spec(spec)))
