"""Recordings and texts that nobody can use, met as a person meets them: in a run, in predict, in Python."""

import json
import struct

import numpy as np
import pytest
import soundfile

from tests.helpers.commands import refused, within
from tests.helpers.small_data import class_folder, picture
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import SOURCES

RATE = 8_000


def tone(hertz, seconds=0.3, rate=RATE):
    time = np.arange(round(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def with_rate(path, rate):
    """A WAV file whose header says another rate."""
    soundfile.write(path, tone(440), RATE)
    raw = bytearray(path.read_bytes())
    raw[24:28] = struct.pack("<I", rate)
    path.write_bytes(raw)


SOUNDS = {
    "empty.wav": lambda path: path.write_bytes(b""),
    "words.wav": lambda path: path.write_text("not a recording, whatever its name says"),
    "silent.wav": lambda path: soundfile.write(path, np.zeros(0, np.float32), RATE),
    "nan.wav": lambda path: soundfile.write(path, np.array([0, np.nan, 0.1], np.float32), RATE, subtype="FLOAT"),
    "slow.wav": lambda path: with_rate(path, 3),
    "fast.wav": lambda path: with_rate(path, 2_000_000_000),
}
HEARD = {
    "empty.wav": "empty file",
    "words.wav": "not a recording that can be read",
    "silent.wav": "a recording without samples",
    "nan.wav": "a recording with samples that are not numbers",
    "slow.wav": "a header that says 3 samples a second",
    "fast.wav": "a header that says 2000000000 samples a second",
}
TEXTS = {
    "empty.txt": b"",
    "blank.txt": b" \n\t ",
    "latin.txt": "Grüße aus Köln".encode("latin-1"),
    "utf16.txt": "Grüße".encode("utf-16"),
    "long.txt": b"low " * 2_500_000,
}
READ = {
    "empty.txt": "an empty text",
    "blank.txt": "nothing but white space",
    "latin.txt": "not UTF-8",
    "utf16.txt": "not UTF-8",
    "long.txt": "a text of 10000000 bytes, at most 1000000",
}
HOUR = "longer than 30 s; what comes later is not read"


def trained(data, root, *flags):
    """Runs the train command on data of which a part is broken."""
    usual = [
        "--augment=",
        "--frozen.epochs=0",
        "--finetune.unfreeze=all",
        "--finetune.epochs=6",
        "--finetune.learning_rate=0.01",
    ]
    more = ["--exports=tflite()", "--max_unreadable=0.3", f"--cache.dir={root / 'cache'}", f"--workdir={root / 'run'}"]
    found = within("train", f"--data={data}", *usual, *more, *flags)
    assert found.returncode == 0, found.stderr
    return found.stderr, (root / "run" / "report.html").read_text()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Low and high tones, six files that cannot be read among them, and one of an hour."""
    root = tmp_path_factory.mktemp("sounds")
    for kind, hertz in {"low": 200, "high": 1_500}.items():
        (root / "data" / kind).mkdir(parents=True)
        for number in range(16):
            soundfile.write(root / "data" / kind / f"{number:02}.wav", tone(hertz + 5 * number), RATE)
    for name, write in SOUNDS.items():
        write(root / "data" / "low" / name)
    soundfile.write(root / "data" / "low" / "hour.flac", np.tile(tone(200, 1, 1_000), 3_600), 1_000)
    flags = ["--backbone=audio_net(seconds=0.3, sample_rate=8000, mels=16, widths=(8, 16))", "--batch_size=8"]
    return root, *trained(root / "data", root, *flags)


def test_recordings_are_skipped_counted_and_listed(sounds):
    """The run is done with the others; terminal and report say what was left out and why, and what was cut."""
    _, said, report = sounds
    assert "6 of 39 samples cannot be read and are left out" in said
    assert f"1 of 39 recordings are {HOUR}" in said
    for name, reason in HEARD.items():
        assert name in report
        assert reason in report
    assert HOUR in report


def test_predict_says_which_recordings_it_cannot_read(sounds):
    """A line each, the good ones among them; a folder stands for the recordings in it."""
    root, _, _ = sounds
    low, bundle = root / "data" / "low", f"--bundle={root / 'run' / 'bundle'}"
    found = within("predict", bundle, *(low / name for name in HEARD), low / "00.wav", low / "hour.flac")
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    for line, reason in zip(lines, HEARD.values(), strict=False):
        assert line["error"].startswith(reason)
    assert [line["label"] for line in lines[len(HEARD) :]] == ["low", "low"]
    assert f"hour.flac is {HOUR}" in found.stderr
    assert found.returncode == 2
    found = within("predict", bundle, root / "data" / "high")
    assert {json.loads(line)["label"] for line in found.stdout.splitlines()} == {"high"}
    assert len(found.stdout.splitlines()) == 16


def test_evaluate_says_how_much_it_skipped(sounds):
    """Labelled data with the same files in it."""
    root, _, _ = sounds
    flags = [f"--bundle={root / 'run' / 'bundle'}", f"--data={root / 'data'}", "--max_unreadable=0.3"]
    found = within("evaluate", *flags)
    assert (json.loads(found.stdout)["samples"], json.loads(found.stdout)["skipped"]) == (33, 6)
    assert f"1 of 39 recordings are {HOUR}" in found.stderr
    assert "6 of 39 samples cannot be read" in refused("evaluate", *flags[:2])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Texts of two kinds in files, five of which are no texts."""
    root = tmp_path_factory.mktemp("texts")
    for kind in ("low", "high"):
        (root / "data" / kind).mkdir(parents=True)
        for number in range(16):
            (root / "data" / kind / f"{number:02}.txt").write_text(f"{kind} {kind} {number}")
    for name, content in TEXTS.items():
        (root / "data" / "low" / name).write_bytes(content)
    return root, *trained(root / "data", root, "--backbone=bag_of_embeddings(size=24, dim=16)", "--batch_size=8")


def test_texts_are_skipped_counted_and_listed(texts):
    """As recordings are."""
    _, said, report = texts
    assert "5 of 37 samples cannot be read and are left out" in said
    for name, reason in READ.items():
        assert name in report
        assert reason in report


def test_predict_says_which_texts_it_cannot_read(texts):
    """A line each; a folder stands for the texts in it."""
    root, _, _ = texts
    low, bundle = root / "data" / "low", f"--bundle={root / 'run' / 'bundle'}"
    found = within("predict", bundle, *(low / name for name in READ), low / "00.txt")
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [line["error"] for line in lines[:-1]] == list(READ.values())
    assert lines[-1]["label"] == "low"
    found = within("predict", bundle, root / "data" / "high")
    assert [json.loads(line)["label"] for line in found.stdout.splitlines()] == ["high"] * 16


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Pictures, recordings and texts, some of which are broken, in a table."""
    root = tmp_path_factory.mktemp("things")
    rows = []
    for number in range(40):
        kind, hertz = (("low", 200), ("high", 1_500))[number % 2]
        picture(root / f"{number}.png", number)
        soundfile.write(root / f"{number}.wav", tone(hertz + number), RATE)
        rows.append({"image": f"{number}.png", "audio": f"{number}.wav", "text": f"{kind} {kind}", "label": kind})
    for name, write in SOUNDS.items():
        write(root / name)
    rows += [{"audio": name, "text": "low", "label": "low"} for name in SOUNDS]
    rows += [{"text": "low " * 2_500_000, "label": "low"}, {"text": " ", "label": "low"}, {"label": "high"}]
    (root / "things.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    towers = "image=convnet(size=8, channels=3, widths=(4, 8)), text=bag_of_embeddings(size=24, dim=16), "
    towers += "audio=audio_net(seconds=0.3, sample_rate=8000, mels=16, widths=(8, 16))"
    return root, *trained(root / "things.jsonl", root, f"--towers={towers}", "--batch_size=8")


@pytest.mark.slow
def test_rows_are_skipped_counted_and_listed(things):
    """Each with the tower whose part is broken; a row without anything says so."""
    _, said, report = things
    assert "9 of 49 samples cannot be read and are left out" in said
    for reason in HEARD.values():
        assert f"audio: {reason}" in report
    assert "text: a text of 10000000 bytes, at most 1000000" in report
    assert report.count("has none of image, text, audio") == 2


@pytest.mark.slow
def test_a_bundle_of_several_towers_says_what_it_cannot_take(things):
    """One record each, the good ones beside them; what is none of the model's inputs is refused as a whole."""
    root, _, _ = things
    bundle = Bundle.open(root / "run" / "bundle")
    wrong = [({"audio": root / name, "text": "low"}, f"audio: {reason}") for name, reason in HEARD.items()] + [
        ({"image": root / "gone.png"}, "image: No such file or directory"),
        ({"image": root}, "image: Is a directory"),
        ({"image": "0\0.png"}, "image: embedded null byte"),
        ({"text": "low " * 2_500_000}, "text: a text of 10000000 bytes, at most 1000000"),
        ({"text": " \n"}, "text: nothing but white space"),
        ({"text": "half a pair \ud800"}, "text: not UTF-8"),
        ({"text": b"\xff\xfe"}, "text: not UTF-8"),
        ({"image": 5}, "image: neither the path of a file nor its content, but int"),
        ({"audio": ["a.wav"]}, "audio: neither the path of a file nor its content, but list"),
        ({"text": ["low"]}, "text: no text, but list"),
        ({"text": None, "image": ""}, "has none of image, text, audio"),
        ({}, "has none of image, text, audio"),
    ]
    records = bundle.predict([given for given, _ in wrong])
    assert [record["error"][: len(said)] for record, (_, said) in zip(records, wrong, strict=True)] == [
        said for _, said in wrong
    ]
    content = {"audio": (root / "0.wav").read_bytes(), "text": b"low"}
    one, other = bundle.predict([{"audio": root / "0.wav", "text": "low"}, content])
    assert one["label"] == other["label"] == "low"
    assert one["scores"] == other["scores"]


@pytest.mark.slow
def test_the_command_says_it_too(things):
    """Whatever JSON objects it is given, every line it prints is JSON, and nothing ends in a traceback."""
    root, _, _ = things
    bundle = f"--bundle={root / 'run' / 'bundle'}"
    wrong = [{"image": 5}, {"audio": {"path": "a.wav"}}, {"text": "\ud800"}]
    given = [*wrong, {"text": "low"}, {"image": None, "text": "high"}]
    found = within("predict", bundle, *map(json.dumps, given))
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert ["error" in line for line in lines] == [True, True, True, False, False]
    assert found.returncode == 2
    assert "3 of 5 samples cannot be read" in found.stderr
    assert "not a JSON object; received: {image: 5}" in refused("predict", bundle, "{image: 5}")
    assert "the model has no such input; received: smell" in refused("predict", bundle, '{"smell": "x"}')


def test_a_long_text_in_a_table_is_a_text(tmp_path):
    """It does not cost the whole table; Python's own reader of CSV stops at 131,072 characters."""
    (tmp_path / "t.csv").write_text(f"text,label\n{'low ' * 2_500_000},low\nhigh,high\n")
    source = SOURCES.build(Spec("table", (str(tmp_path / "t.csv"),)))
    assert [len(row["text"]) for row in source.read("all").as_numpy_iterator()] == [10_000_000, 4]


@pytest.mark.parametrize(
    ("backbone", "column"), [("audio_net()", "audio"), ("bag_of_embeddings()", "text")], ids=["audio", "text"]
)
def test_a_tower_for_what_a_folder_lacks(tmp_path, backbone, column):
    """Pictures, for a tower that hears or reads."""
    class_folder(tmp_path / "photos", cat=4, dog=4)
    said = refused("train", f"--data={tmp_path / 'photos'}", f"--backbone={backbone}", f"--workdir={tmp_path / 'run'}")
    assert f"the data has no {column} for a tower; received: photos; allowed: image, label" in said
