"""Sources joined by label: each split by itself, so that nothing of one side is ever part of a pair of another."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import small_data
from tests.helpers.assets import asset
from tests.helpers.small_data import class_folder, complaint, picture, sizes
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.types.components import SOURCES

HELD = (
    "audio=spoken_digits(languages=('fr', 'it'), test='carlo', val='june'), "
    "text=digit_words(test=('de', 'es', 'nl', 'pt', 'ru'))"
)
BY_GROUPS = "audio=spoken_digits(languages=('fr', 'it')), text=digit_words(), val=0.2"
VOICES = ("june", "armelle", "menardi", "carlo")


def build(data):
    return SOURCES.build(infer_source(data))


def rows(source, part):
    return list(source.read(part).as_numpy_iterator())


@pytest.fixture(scope="module", params=[HELD, BY_GROUPS], ids=["held out by name", "split by groups"])
def digits(request):
    """Pictures, recordings and words of the digits."""
    for name in ("mnist", "cldr-rbnf", *(f"digits-{voice}" for voice in VOICES)):
        asset(name)
    return build(f"paired(image=idx(package='mnist', limit=500), {request.param})")


def test_nothing_stands_on_two_sides(digits):
    """No picture, no recording, no word; nor another recording of a voice, or another word of a language."""
    sides = {part: rows(digits, part) for part in ("train", "val", "test")}
    assert set(digits.sizes) == set(sides)
    found = {
        "picture": lambda row: row["image"].tobytes(),
        "recording": lambda row: hashlib.sha256(Path(row["audio"].decode()).read_bytes()).digest(),
        "word": lambda row: row["text"],
        "voice": lambda row: row["file"].split(b" + ")[1].split(b"/")[0],
        "language": lambda row: row["file"].split(b" + ")[2].split(b"/")[0],
    }
    for what, key in found.items():
        train, val, test = ({key(row) for row in side} for side in sides.values())
        assert train, what
        assert val, what
        assert test, what
        assert not train & val, what
        assert not (train | val) & test, what


def test_pairs_are_of_one_label(digits):
    """The picture's, the recording's and the word's; all ten on every side."""
    numbers = {"train": asset("mnist") / "train-labels-idx1-ubyte", "test": asset("mnist") / "t10k-labels-idx1-ubyte"}
    for part in digits.sizes:
        for row in rows(digits, part):
            label = row["label"].decode()
            shown, said, written = row["file"].decode().split(" + ")
            assert Path(said).stem == label
            assert Path(row["audio"].decode()).stem == label
            assert written.split("/")[1] == label
            side, at = shown.split("/")
            assert numbers[side].read_bytes()[8 + int(at)] == int(label)
        assert {row["label"] for row in rows(digits, part)} == {b"%d" % digit for digit in range(10)}


def test_words_of_many_languages():
    """As people count, in any script; rules that refer to others are followed."""
    asset("cldr-rbnf")
    source = build("digit_words(test=('it',))")
    assert source.sizes == {"train": 770, "test": 10}
    words = {}
    for row in rows(source, "train"):
        words.setdefault(row["language"].decode(), []).append(row["text"].decode())
    assert " ".join(words["en"]) == "zero one two three four five six seven eight nine"
    assert " ".join(words["sv"]) == "noll ett två tre fyra fem sex sju åtta nio"
    assert " ".join(words["lt"]) == "nulis vienas du trys keturi penki šeši septyni aštuoni devyni"
    assert "".join(words["ko"]) == "공일이삼사오육칠팔구"
    assert "und" not in words
    assert "it" not in words
    assert all(len(found) == 10 for found in words.values())
    said = complaint(build, "digit_words(languages=('de', 'xx'))")
    assert said.startswith("digit_words has no such language; received: xx; allowed: af, ak, ")
    assert complaint(build, "digit_words(languages=('de',), test=('de',))").endswith("train on; received: de")


@pytest.fixture
def own(tmp_path):
    """A folder of pictures and a table of texts, twenty and ten of a label."""
    class_folder(tmp_path / "photos", x=20, y=20)
    lines = [f"word {number} of {label},{label}" for number in range(10) for label in "xy"]
    (tmp_path / "words.csv").write_text("\n".join(["text,label", *lines]))
    return tmp_path


def paired(own, options=""):
    return f"paired(image={str(own / 'photos')!r}, text={str(own / 'words.csv')!r}{options})"


def test_how_many_pairs(own):
    """Each sample of the larger source once, the others equally often, up to a limit for each label."""
    source = build(paired(own, ", test=0.3, val=0.2"))
    assert sum(source.sizes.values()) == 40
    for part in source.sizes:
        found = rows(source, part)
        assert set(Counter(row["image"] for row in found).values()) == {1}
        for label in (b"x", b"y"):
            often = Counter(row["text"] for row in found if row["label"] == label).values()
            assert max(often) - min(often) <= 1
    assert build(paired(own, ", limit=2")).sizes == {"train": 4, "val": 4, "test": 4}
    assert source.paths == ("image",)


def test_the_seed_decides(own):
    """The same split and the same pairs for one seed, others for another."""
    first, again, other = ([row["file"] for row in rows(build(paired(own, f", seed={s}")), "train")] for s in (0, 0, 1))
    assert first == again
    assert set(first) != set(other)


def test_a_run_cuts_nothing_more(own):
    """Pairs of the training part share pictures and texts with one another: none of them may be held out."""
    kept = small_data.load(paired(own, ", val=0.0"), split__val=0.3, split__test=0.3)
    source = build(paired(own, ", val=0.0"))
    assert sizes(kept) == {"train": source.sizes["train"], "val": 0, "test": source.sizes["test"]}


def test_copies_are_left_out_of_later_parts(own, capsys):
    """A picture that stands in the training part twice, once under another name, and a file that cannot be read."""
    photos = own / "photos" / "x"
    for number in range(20, 40):
        picture(photos / f"{number}.png", seed=0)  # as 00.png
    (photos / "gone.png").symlink_to(own / "nowhere.png")
    source = build(paired(own, ", test=0.3, val=0.2"))
    content = {}
    for part in source.sizes:
        paths = [Path(row["image"].decode()) for row in rows(source, part)]
        content[part] = {path.read_bytes() for path in paths if path.exists()}
    assert not content["train"] & (content["val"] | content["test"])
    assert not content["val"] & content["test"]
    assert "samples of image in test are left out: an earlier part has the same" in capsys.readouterr().err


def test_gaps_are_not_paired(tmp_path):
    """A row of a table that has no text."""
    class_folder(tmp_path / "photos", x=3, y=3)
    lines = [f"{number},{label} {number},{label}" for number in range(4) for label in "xy"] + ["9,,x"]
    (tmp_path / "t.csv").write_text("\n".join(["image,text,label", *lines]))
    source = build(f"paired(image={str(tmp_path / 'photos')!r}, text={str(tmp_path / 't.csv')!r}, val=0.0)")
    assert all(row["text"] for part in source.sizes for row in rows(source, part))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("image='{0}/photos'", "paired wants several sources; received: image; allowed: two or more of image, audio"),
        ("", "paired wants several sources; received: none"),
        (
            "image='{0}/photos', text='{0}/more.csv'",
            "the sources to pair have different labels; received: image lacks z; leave them out of the others",
        ),
        ("image='{0}/photos', audio='{0}/words.csv'", "this source has no audio to pair; received: words; allowed: "),
        ("image='{0}/photos', text='{0}/gone.csv'", "no such folder or file; received: "),
        ("image='{0}/photos', text='{0}/words.csv', test=0.6, val=0.5", "paired is out of range; received: test=0.6"),
        ("image='{0}/photos', text='{0}/words.csv', limit=-1", "paired is out of range; received: test=0.25, "),
        (
            "image='{0}/photos', text='{0}/words.csv', val=0.01",
            "the sources to pair have nothing in val; received: image, text; hold out more of them",
        ),
        ("image=tux_stamp(), text='{0}/words.csv'", "unknown source; received: tux_stamp; "),
    ],
)
def test_what_cannot_be_paired(own, options, said):
    """Is told in one line that names what differs."""
    (own / "more.csv").write_text((own / "words.csv").read_text() + "\na z,z\nanother z,z")
    assert complaint(build, f"paired({options.format(own)})").startswith(said)


def test_a_held_out_language_may_have_known_words_alone():
    """Portuguese has zero and nove of Italian: no word of these is left to test on, and the message says so."""
    for name in ("cldr-rbnf", *(f"digits-{voice}" for voice in VOICES)):
        asset(name)
    audio = "audio=spoken_digits(languages=('fr', 'it'), test=('june', 'carlo'))"
    said = complaint(build, f"paired({audio}, text=digit_words(languages=('de', 'it', 'pt'), test=('pt',)), val=0.0)")
    assert said == (
        "the sources to pair have different labels in test; received: text lacks 0, 9; hold out more of them"
    )


def test_pixels_stay_as_they_are(tmp_path):
    """Small arrays are paired as well as files."""
    folder = small_data.idx_folder(tmp_path / "idx", labels=(0, 1))
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(f"{n} {c},{c}" for n in range(6) for c in (0, 1)))
    (folder / "t10k-images-idx3-ubyte").unlink()
    (folder / "t10k-labels-idx1-ubyte").unlink()
    small_data.idx_file(folder / "t10k-images-idx3-ubyte", np.full((2, 4, 5), 9, np.uint8))
    small_data.idx_file(folder / "t10k-labels-idx1-ubyte", np.array([0, 1], np.uint8))
    source = build(f"paired(image={str(folder)!r}, text={str(tmp_path / 't.csv')!r}, val=0.0)")
    assert {row["image"].shape for row in rows(source, "train")} == {(4, 5, 1)}
    assert {int(row["image"][0, 0, 0]) for row in rows(source, "test")} == {9}
