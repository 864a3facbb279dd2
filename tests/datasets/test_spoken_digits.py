"""The telephone's prompts as a source of data."""

import pytest

from tests.helpers.assets import asset
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import SOURCES


def spoken(**options):
    return SOURCES.build(Spec("spoken_digits", (), options))


def rows(source, part="all"):
    return list(source.read(part).as_numpy_iterator())


def test_one_take_a_voice():
    """Ten digits of each voice; the voice is the group, so that it is on one side of a split."""
    for voice in ("june", "armelle"):
        asset(f"digits-{voice}")
    found = rows(spoken(languages=("fr",)))
    assert {(row["group"], row["label"]) for row in found} == {
        (voice, str(digit).encode()) for voice in (b"june", b"armelle") for digit in range(10)
    }
    assert len(found) == 20
    assert [row["text"].decode() for row in found[:3]] == ["zéro", "un", "deux"]
    assert {row["language"] for row in found} == {b"fr"}
    # Armelle's are headerless GSM.
    assert {row["file"].decode().rpartition(".")[2] for row in found} == {"wav", "gsm"}


def test_a_voice_to_test_on_and_letters():
    """The voice stands in the test part alone; letters are further classes."""
    for voice in ("menardi", "carlo"):
        asset(f"digits-{voice}")
    source = spoken(languages=("it",), letters=True, test="menardi")
    assert source.sizes == {"train": 36, "test": 36}
    assert {row["group"] for row in rows(source, "test")} == {b"menardi"}
    assert {row["group"] for row in rows(source, "train")} == {b"carlo"}
    assert len(source.labels) == 36


def test_several_voices_are_held_out():
    """Voices to test on and a voice to choose the best epoch on; all others are learned from."""
    for voice in ("june", "armelle", "menardi", "carlo"):
        asset(f"digits-{voice}")
    source = spoken(languages=("fr", "it"), test=("june", "carlo"), val="menardi")
    found = {part: {row["group"] for row in rows(source, part)} for part in source.sizes}
    assert found == {"test": {b"june", b"carlo"}, "val": {b"menardi"}, "train": {b"armelle"}}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"languages": ("ti",)}, "no spoken digits in this language; received: ti; allowed: en, es"),
        ({"languages": ()}, "spoken_digits without a language"),
        ({"languages": ("it",), "test": "june"}, "not a voice of these languages to hold out"),
        ({"languages": ("it",), "test": "carlo", "val": "menardi"}, "not a voice of these languages to hold out"),
        ({"languages": ("it", "fr"), "test": "carlo", "val": "carlo"}, "hold out; received: carlo"),
        ({"languages": ("en",), "test": "allison"}, "languages with several voices"),
    ],
)
def test_options_are_checked(options, what):
    """Before anything is downloaded."""
    with pytest.raises(UserError, match=what):
        spoken(**options)
