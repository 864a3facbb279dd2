"""Telephone prompts as samples."""

import pytest

from tests.helpers.assets import fetch_asset
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import SOURCES


def spoken(**options):
    return SOURCES.build(Spec("spoken_digits", (), options))


def rows(source, part="all"):
    return list(source.read(part).as_numpy_iterator())


def test_one_recording_per_voice():
    """Each voice has ten digits; the voice is the group, which stays in one split."""
    for voice in ("june", "armelle"):
        fetch_asset(f"digits-{voice}")
    samples = rows(spoken(languages=("fr",)))
    assert {(row["group"], row["label"]) for row in samples} == {
        (voice, str(digit).encode()) for voice in (b"june", b"armelle") for digit in range(10)
    }
    assert len(samples) == 20
    assert [row["text"].decode() for row in samples[:3]] == ["zéro", "un", "deux"]
    assert {row["language"] for row in samples} == {b"fr"}
    # Armelle's are headerless GSM.
    assert {row["file"].decode().rpartition(".")[2] for row in samples} == {"wav", "gsm"}


def test_a_voice_to_test_on_and_letters():
    """The voice is in the test split only; letters are more classes."""
    for voice in ("menardi", "carlo"):
        fetch_asset(f"digits-{voice}")
    source = spoken(languages=("it",), letters=True, test="menardi")
    assert source.sizes == {"train": 36, "test": 36}
    assert {row["group"] for row in rows(source, "test")} == {b"menardi"}
    assert {row["group"] for row in rows(source, "train")} == {b"carlo"}
    assert len(source.labels) == 36


def test_several_held_out_voices():
    """Voices of the test and validation splits are held out; all others are training samples."""
    for voice in ("june", "armelle", "menardi", "carlo"):
        fetch_asset(f"digits-{voice}")
    source = spoken(languages=("fr", "it"), test=("june", "carlo"), val="menardi")
    voices = {part: {row["group"] for row in rows(source, part)} for part in source.sizes}
    assert voices == {"test": {b"june", b"carlo"}, "val": {b"menardi"}, "train": {b"armelle"}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ("ti",)}, r"spoken_digits\(\) has no such language: ti. Expected: en, es"),
        ({"languages": ()}, r"spoken_digits\(\) needs a language. Expected: en, es"),
        ({"languages": ("it",), "test": "june"}, r"spoken_digits\(\) cannot hold out the voice: june"),
        ({"languages": ("it",), "test": "carlo", "val": "menardi"}, "cannot hold out the voice: carlo"),
        ({"languages": ("it", "fr"), "test": "carlo", "val": "carlo"}, "cannot hold out the voice: carlo"),
        ({"languages": ("en",), "test": "allison"}, "languages with several voices"),
    ],
)
def test_invalid_options(options, message):
    """Options are checked before anything is downloaded."""
    with pytest.raises(UserError, match=message):
        spoken(**options)
