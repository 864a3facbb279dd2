"""Unreadable recordings and texts in train, predict, evaluate and the Python API."""

import json
import struct

import numpy as np
import pytest
import soundfile

from tests.helpers.commands import get_error, run_in_process
from tests.helpers.small_data import class_folder, picture
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import SOURCES

RATE = 8_000


def tone(hertz, seconds=0.3, rate=RATE):
    time = np.arange(round(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def write_with_rate(path, rate):
    """Write a WAV file with a wrong sample rate in its header."""
    soundfile.write(path, tone(440), RATE)
    raw = bytearray(path.read_bytes())
    raw[24:28] = struct.pack("<I", rate)
    path.write_bytes(raw)


SOUNDS = {
    "empty.wav": lambda path: path.write_bytes(b""),
    "words.wav": lambda path: path.write_text("not a recording, whatever its name says"),
    "silent.wav": lambda path: soundfile.write(path, np.zeros(0, np.float32), RATE),
    "nan.wav": lambda path: soundfile.write(path, np.array([0, np.nan, 0.1], np.float32), RATE, subtype="FLOAT"),
    "slow.wav": lambda path: write_with_rate(path, 3),
    "fast.wav": lambda path: write_with_rate(path, 2_000_000_000),
}
AUDIO_REASONS = {
    "empty.wav": "empty file",
    "words.wav": "not a readable audio file",
    "silent.wav": "audio without samples",
    "nan.wav": "audio with samples that are not finite",
    "slow.wav": "invalid sample rate in the header: 3 Hz",
    "fast.wav": "invalid sample rate in the header: 2000000000 Hz",
}
TEXTS = {
    "empty.txt": b"",
    "blank.txt": b" \n\t ",
    "latin.txt": "Grüße aus Köln".encode("latin-1"),
    "utf16.txt": "Grüße".encode("utf-16"),
    "long.txt": b"low " * 2_500_000,
}
TEXT_REASONS = {
    "empty.txt": "empty text",
    "blank.txt": "only white space",
    "latin.txt": "not UTF-8",
    "utf16.txt": "not UTF-8",
    "long.txt": "text of 10000000 bytes, at most 1000000",
}
HOUR = "longer than 30 s; only the first 30 s are read"


def train(data, root, *flags):
    """Run the train command on data with unreadable samples, and return its messages and its report."""
    options = [
        "--augment=",
        "--frozen.epochs=0",
        "--finetune.unfreeze=all",
        "--finetune.epochs=6",
        "--finetune.learning_rate=0.01",
    ]
    options += [
        "--exports=tflite()",
        "--max_unreadable=0.3",
        f"--cache.dir={root / 'cache'}",
        f"--workdir={root / 'run'}",
    ]
    result = run_in_process("train", f"--data={data}", *options, *flags)
    assert result.returncode == 0, result.stderr
    return result.stderr, (root / "run" / "report.html").read_text()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Train on low and high tones, with six unreadable files and one of an hour."""
    root = tmp_path_factory.mktemp("sounds")
    for kind, hertz in {"low": 200, "high": 1_500}.items():
        (root / "data" / kind).mkdir(parents=True)
        for number in range(16):
            soundfile.write(root / "data" / kind / f"{number:02}.wav", tone(hertz + 5 * number), RATE)
    for name, write in SOUNDS.items():
        write(root / "data" / "low" / name)
    soundfile.write(root / "data" / "low" / "hour.flac", np.tile(tone(200, 1, 1_000), 3_600), 1_000)
    flags = ["--backbone=audio_net(seconds=0.3, sample_rate=8000, mels=16, widths=(8, 16))", "--batch_size=8"]
    return root, *train(root / "data", root, *flags)


def test_recordings_are_skipped_counted_and_listed(sounds):
    """The run uses the other recordings; messages and report list the unreadable and the cut ones."""
    _, messages, report = sounds
    assert "6 of 39 samples cannot be read and are left out" in messages
    assert f"1 of 39 recordings are {HOUR}" in messages
    for name, reason in AUDIO_REASONS.items():
        assert name in report
        assert reason in report
    assert HOUR in report


def test_predict_reports_unreadable_recordings(sounds):
    """Every recording has a line with a label or an error; a folder means all recordings in it."""
    root, _, _ = sounds
    low, bundle = root / "data" / "low", f"--bundle={root / 'run' / 'bundle'}"
    result = run_in_process(
        "predict", bundle, *(low / name for name in AUDIO_REASONS), low / "00.wav", low / "hour.flac"
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for line, reason in zip(lines, AUDIO_REASONS.values(), strict=False):
        assert line["error"].startswith(reason)
    assert [line["label"] for line in lines[len(AUDIO_REASONS) :]] == ["low", "low"]
    assert f"hour.flac is {HOUR}" in result.stderr
    assert result.returncode == 2
    result = run_in_process("predict", bundle, root / "data" / "high")
    assert {json.loads(line)["label"] for line in result.stdout.splitlines()} == {"high"}
    assert len(result.stdout.splitlines()) == 16


def test_evaluate_counts_skipped_recordings(sounds):
    """The output has the number of unreadable samples; above the limit, evaluate stops with an error."""
    root, _, _ = sounds
    flags = [f"--bundle={root / 'run' / 'bundle'}", f"--data={root / 'data'}", "--max_unreadable=0.3"]
    result = run_in_process("evaluate", *flags)
    assert (json.loads(result.stdout)["samples"], json.loads(result.stdout)["skipped"]) == (33, 6)
    assert f"1 of 39 recordings are {HOUR}" in result.stderr
    assert "6 of 39 samples cannot be read" in get_error("evaluate", *flags[:2])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Train on text files of two classes, with five unreadable files."""
    root = tmp_path_factory.mktemp("texts")
    for kind in ("low", "high"):
        (root / "data" / kind).mkdir(parents=True)
        for number in range(16):
            (root / "data" / kind / f"{number:02}.txt").write_text(f"{kind} {kind} {number}")
    for name, content in TEXTS.items():
        (root / "data" / "low" / name).write_bytes(content)
    return root, *train(root / "data", root, "--backbone=bag_of_embeddings(size=24, dim=16)", "--batch_size=8")


def test_texts_are_skipped_counted_and_listed(texts):
    """The run uses the other texts; messages and report list the unreadable ones."""
    _, messages, report = texts
    assert "5 of 37 samples cannot be read and are left out" in messages
    for name, reason in TEXT_REASONS.items():
        assert name in report
        assert reason in report


def test_predict_reports_unreadable_texts(texts):
    """Every text has a line with a label or an error; a folder means all texts in it."""
    root, _, _ = texts
    low, bundle = root / "data" / "low", f"--bundle={root / 'run' / 'bundle'}"
    result = run_in_process("predict", bundle, *(low / name for name in TEXT_REASONS), low / "00.txt")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["error"] for line in lines[:-1]] == list(TEXT_REASONS.values())
    assert lines[-1]["label"] == "low"
    result = run_in_process("predict", bundle, root / "data" / "high")
    assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == ["high"] * 16


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Train on a table of images, recordings and texts, some of which are unreadable."""
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
    return root, *train(root / "things.jsonl", root, f"--backbone={towers}", "--batch_size=8")


@pytest.mark.slow
def test_rows_are_skipped_counted_and_listed(things):
    """Each unreadable row is listed with the tower of its error; a row without any input is listed as such."""
    _, messages, report = things
    assert "9 of 49 samples cannot be read and are left out" in messages
    for reason in AUDIO_REASONS.values():
        assert f"audio: {reason}" in report
    assert "text: text of 10000000 bytes, at most 1000000" in report
    assert report.count("has none of image, text, audio") == 2


@pytest.mark.slow
def test_a_bundle_with_several_towers_reports_bad_samples(things):
    """`Bundle.predict` returns a record with an error for each bad sample."""
    root, _, _ = things
    bundle = Bundle.open(root / "run" / "bundle")
    bad_samples = [
        ({"audio": root / name, "text": "low"}, f"audio: {reason}") for name, reason in AUDIO_REASONS.items()
    ] + [
        ({"image": root / "gone.png"}, "image: No such file or directory"),
        ({"image": root}, "image: Is a directory"),
        ({"image": "0\0.png"}, "image: embedded null byte"),
        ({"text": "low " * 2_500_000}, "text: text of 10000000 bytes, at most 1000000"),
        ({"text": " \n"}, "text: only white space"),
        ({"text": "half a pair \ud800"}, "text: not UTF-8"),
        ({"text": b"\xff\xfe"}, "text: not UTF-8"),
        ({"image": 5}, "image: expected the path of a file or its content, got int"),
        ({"audio": ["a.wav"]}, "audio: expected the path of a file or its content, got list"),
        ({"text": ["low"]}, "text: expected a text, got list"),
        ({"text": None, "image": ""}, "has none of image, text, audio"),
        ({}, "has none of image, text, audio"),
    ]
    records = bundle.predict([sample for sample, _ in bad_samples])
    reasons = [reason for _, reason in bad_samples]
    assert [record["error"][: len(reason)] for record, reason in zip(records, reasons, strict=True)] == reasons
    content = {"audio": (root / "0.wav").read_bytes(), "text": b"low"}
    from_path, from_content = bundle.predict([{"audio": root / "0.wav", "text": "low"}, content])
    assert from_path["label"] == from_content["label"] == "low"
    assert from_path["scores"] == from_content["scores"]


@pytest.mark.slow
def test_predict_prints_json_for_bad_samples(things):
    """Every line of the output is JSON; a malformed argument is an error without a traceback."""
    root, _, _ = things
    bundle = f"--bundle={root / 'run' / 'bundle'}"
    bad_samples = [{"image": 5}, {"audio": {"path": "a.wav"}}, {"text": "\ud800"}]
    samples = [*bad_samples, {"text": "low"}, {"image": None, "text": "high"}]
    result = run_in_process("predict", bundle, *map(json.dumps, samples))
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in line for line in lines] == [True, True, True, False, False]
    assert result.returncode == 2
    assert "3 of 5 samples cannot be read" in result.stderr
    assert "not a JSON object: {image: 5}" in get_error("predict", bundle, "{image: 5}")
    assert "model has no such input: smell" in get_error("predict", bundle, '{"smell": "x"}')


def test_a_long_text_in_a_table_is_a_text(tmp_path):
    """The table is read although Python's CSV reader is limited to 131,072 characters by default."""
    (tmp_path / "t.csv").write_text(f"text,label\n{'low ' * 2_500_000},low\nhigh,high\n")
    source = SOURCES.build(Spec("table", (str(tmp_path / "t.csv"),)))
    assert [len(row["text"]) for row in source.read("all").as_numpy_iterator()] == [10_000_000, 4]


@pytest.mark.parametrize(
    ("backbone", "column"), [("audio_net()", "audio"), ("bag_of_embeddings()", "text")], ids=["audio", "text"]
)
def test_a_folder_without_the_input_of_a_tower_is_rejected(tmp_path, backbone, column):
    """An image folder has no input for an audio or text tower."""
    class_folder(tmp_path / "photos", cat=4, dog=4)
    message = get_error(
        "train", f"--data={tmp_path / 'photos'}", f"--backbone={backbone}", f"--workdir={tmp_path / 'run'}"
    )
    assert f"The data has no column {column}: photos. Expected: image, label, file. " in message
