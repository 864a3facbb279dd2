"""Bundles: their content, the checks when they are opened, and predictions."""

import csv
import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from tests.helpers.small_data import complaint
from tests.helpers.small_model import NAMES, small, table, write_bundle
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.errors import UserError
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.deploy.pack import create_bundle, finalize_bundle
from tfx_finetune.types.deployment import Export

EXPORTS = "keras_file(), saved_model(), tflite()"
SCORES = {"kind/accuracy": 0.75}
CHECKS = (
    VerificationResult("keras", SCORES, 0.75, 0.0, -0.01, 0.01, 1e-7, 2.5, ""),
    VerificationResult("saved_model", SCORES, 0.75, 0.0, -0.01, 0.01, 1e-7, 2.5, ""),
    VerificationResult("tflite", {}, 0.0, 1.0, 1.0, 1.0, float("inf"), 0.0, "empty or broken"),
)


@pytest.fixture(scope="module")
def model():
    return small({"kind": "classify()"})


@pytest.fixture(scope="module")
def original(model, tmp_path_factory):
    """Return a finished bundle whose TFLite file failed verification."""
    bundle = write_bundle(tmp_path_factory.mktemp("bundle") / "bundle", model, EXPORTS)
    return finalize_bundle(bundle, table(model), model.golden, {"test": SCORES}, CHECKS)


@pytest.fixture
def folder(original, tmp_path):
    """Return the folder of a copy of the bundle, to be changed."""
    return shutil.copytree(original.path, tmp_path / "bundle")


def alter(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    for name, value in changes.items():
        manifest.pop(name)
        if value is not None:
            manifest[name] = value
    (path / "manifest.json").write_text(json.dumps(manifest))


# ---- what is in it


def test_an_opened_bundle_has_the_written_content(original, folder):
    """An opened bundle has the formats, manifest, modalities, tasks and files that were written."""
    bundle = Bundle.open(str(folder))
    assert bundle.formats == ["keras", "saved_model", "tflite"]
    assert bundle.manifest == json.loads(json.dumps(original.manifest))
    assert bundle.manifest["verified"] == {"keras": True, "saved_model": True, "tflite": False}
    assert bundle.modalities["image"].shape == (16, 16, 3)
    assert bundle.tasks["kind"].labels.names == NAMES
    files = {path.name for path in folder.iterdir()}
    assert files == {"manifest.json", "scores.json", "labels.txt", "split.csv", "golden", *_exported(bundle)}
    assert bundle.file_sizes["tflite"] == ("model.tflite", (folder / "model.tflite").stat().st_size)
    inside = [path for path in (folder / "saved_model").rglob("*") if path.is_file()]
    assert bundle.file_sizes["saved_model"] == ("saved_model", sum(path.stat().st_size for path in inside))


def _exported(bundle):
    return {file for file, _ in bundle.file_sizes.values()}


def test_labels_are_lines_in_the_order_of_the_scores(folder):
    """labels.txt is UTF-8 with one class name per line, in the order of the scores."""
    assert (folder / "labels.txt").read_bytes().decode("utf-8") == "ägg\nbär und café\n猫\n"


def test_each_head_has_a_label_file(tmp_path):
    """With several heads, labels.txt has the labels of the first head, for tools that know no heads."""
    bundle = write_bundle(tmp_path / "bundle", small({"kind": "classify()", "marks": "tag()"}), "tflite()")
    assert (bundle.path / "labels.txt").read_text() == (bundle.path / "labels.marks.txt").read_text()


def test_scores_json_has_the_model_and_each_file(folder):
    """scores.json is strict JSON: the infinite difference of a broken file is null."""
    scores = json.loads((folder / "scores.json").read_text(), parse_constant=pytest.fail)
    assert list(scores) == ["test", "keras", "saved_model", "tflite"]
    assert scores["test"] == {"kind/accuracy": 0.75}
    assert scores["keras"]["kind/accuracy"] == scores["keras"]["score"] == 0.75
    assert scores["tflite"]["difference"] is None
    assert scores["tflite"]["failure_reason"] == "empty or broken"


def test_golden_samples_are_raw_images_with_outputs(folder, model):
    """golden/ has eight raw images and the outputs that the SavedModel predicts for them."""
    record = json.loads((folder / "golden" / "outputs.json").read_text())
    assert len(record) == 8
    serve = Bundle.open(folder).load_model("saved_model").predict_raw
    names = [sample["files"]["image"] for sample in record]
    outputs = serve({"image": [(folder / "golden" / name).read_bytes() for name in names]})
    expected = [sample["outputs"]["kind/scores"] for sample in record]
    np.testing.assert_allclose(outputs["kind/scores"], expected, atol=1e-5)
    for name, raw in zip(names, model.raw, strict=False):
        assert (folder / "golden" / name).read_bytes() == raw
        assert name.endswith(".png")


def test_split_csv_lists_all_samples(folder):
    """split.csv has one row per sample with its split."""
    with (folder / "split.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[3] == {"file": "3.png", "split": "test", "sha256": "", "label": "猫"}
    assert len(rows) == 40


def test_checksums_are_those_of_sha256sum(folder):
    """The manifest has the SHA-256 checksum of each file."""
    digests = json.loads((folder / "manifest.json").read_text())["sha256"]
    inside = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(digests) == inside - {"manifest.json"}
    for name, digest in digests.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


# ---- what is not opened


FILES = (
    *("labels.txt", "scores.json", "split.csv", "golden/0.image.png", "golden/outputs.json", "model.keras"),
    *("model.tflite", "saved_model/saved_model.pb", "saved_model/variables/variables.index"),
)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_an_error(name, folder):
    """Opening a bundle that lacks a file raises an error with the file's name."""
    (folder / name).unlink()
    error = complaint(Bundle.open, folder)
    assert error == f"A file of the bundle is missing: {folder / name}. Run its command again."


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_an_error(name, folder):
    """Opening a bundle with one flipped bit in a file raises an error with the file's name."""
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    error = complaint(Bundle.open, folder)
    assert error.startswith(
        f"A file of the bundle was changed: {folder / name}. Run its command again: the file is not the verified one."
    )


def test_additional_files_are_ignored(folder):
    """A bundle can be opened if its folder has other files, such as notes or .DS_Store."""
    (folder / ".DS_Store").write_text("x")
    (folder / "golden" / "notes.txt").write_text("x")
    assert Bundle.open(folder).formats


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", '"text"', '{"files": {}}'])
def test_a_folder_without_a_valid_manifest_is_refused(content, tmp_path):
    """A folder whose manifest.json is missing or has other content is not a bundle."""
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    error = complaint(Bundle.open, tmp_path)
    assert error == (
        f"The folder has no readable manifest.json and is not a bundle: {tmp_path}. "
        "Name the folder bundle/ of a finished run."
    )


def test_a_missing_folder_is_refused(tmp_path):
    """A missing folder is not a bundle, and an empty path needs --bundle."""
    assert "is not a bundle" in complaint(Bundle.open, tmp_path / "missing")
    assert complaint(Bundle.open, "").startswith("--bundle is missing. ")


def test_a_bundle_of_another_version_is_refused(folder):
    """The version is checked before other entries of the manifest are read."""
    alter(folder, version=99, verified=None, files=None)
    assert "The bundle has another version: 99. Expected: 2." in complaint(Bundle.open, folder)


def test_a_bundle_that_was_not_verified_is_refused(model, tmp_path):
    """A bundle without verification results belongs to a run that has not finished."""
    bundle = write_bundle(tmp_path / "bundle", model, "tflite()")
    error = complaint(Bundle.open, bundle.path)
    assert error == f"The run of the bundle has not finished: {bundle.path}. Run its command again."


def test_an_unknown_format_is_refused(original):
    """The error lists the formats and suggests a similar one."""
    error = complaint(original.load_model, "tflight")
    assert "no such format: tflight. Expected: keras, saved_model, tflite. Did you mean tflite?" in error


def test_a_failed_export_leaves_the_bundle_unchanged(folder, model):
    """If an export fails, the old bundle stays and no partial folder is left."""

    def fail(servable, path):
        path.write_text("half")
        raise UserError("cannot be written")

    before = (folder / "manifest.json").read_bytes()
    broken = {"broken()": Export("broken", "broken.bin", fail, fail, 0.0, False)}
    with pytest.raises(UserError, match="cannot be written"):
        create_bundle(folder, {"towers": {}}, broken, model.servable)
    assert (folder / "manifest.json").read_bytes() == before
    assert Bundle.open(folder)
    assert {path.name for path in folder.parent.iterdir()} == {"bundle"}


def test_a_new_bundle_replaces_the_old_one(folder, model):
    """No file of the old bundle is left in the folder."""
    bundle = write_bundle(folder, model, "tflite()")
    assert {path.name for path in folder.iterdir()} == {"model.tflite", "labels.txt", "manifest.json"}
    assert bundle.path == folder


# ---- predictions


@pytest.mark.parametrize("format", ["keras", "saved_model", "tflite"])
def test_files_and_folders_are_predicted_in_order(format, original, model, tmp_path):
    """Files of a folder are predicted in order of their names, with the labels and scores of the model."""
    for row, content in enumerate(model.raw[:4]):
        path = tmp_path / "földer" / ("inner" if row % 2 else ".") / f"{row} 猫.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "földer" / "notes.txt").write_text("not a picture")
    alone = tmp_path / "alone.without.ending"
    alone.write_bytes(model.raw[4])
    records = original.predict([alone, tmp_path / "földer"], format)
    expected = [4, 0, 2, 1, 3]
    names = [alone] + [tmp_path / "földer" / f"{r} 猫.PNG" for r in (0, 2)]
    names += [tmp_path / "földer" / "inner" / f"{r} 猫.PNG" for r in (1, 3)]
    assert [record["file"] for record in records] == [str(name) for name in names]
    for record, row in zip(records, expected, strict=True):
        scores = model.answers["kind/scores"][row]
        assert list(record) == ["file", "label", "score", "scores"]
        assert record["label"] == NAMES[scores.argmax()]
        assert record["score"] == pytest.approx(scores.max(), abs=1e-4)
        assert record["scores"] == pytest.approx(dict(zip(NAMES, scores, strict=True)), abs=1e-4)


def test_unreadable_files_have_an_error(original, model, tmp_path):
    """The record of an unreadable file has the reason, and the other files are predicted."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "short.png").write_bytes(model.raw[0][:60])
    (tmp_path / "text.jpg").write_text("a text that has an ending of a picture")
    (tmp_path / "whole.png").write_bytes(model.raw[0])
    records = original.predict([tmp_path / "missing.png", "null\0.png", tmp_path], "tflite")
    assert [list(record) for record in records[:5]] == [["file", "error"]] * 5
    assert [record["error"] for record in records[:5]] == [
        "No such file or directory",
        "embedded null byte",
        "empty file",
        "truncated or corrupt PNG",
        "not a JPEG, PNG, GIF, BMP or WebP image",
    ]
    assert [record["file"] for record in records[2:]] == [str(path) for path in sorted(tmp_path.iterdir())]
    assert records[5]["label"] in NAMES


def test_a_name_that_is_not_utf_8_can_be_printed(original, model, tmp_path):
    """The record of a file whose name is not UTF-8 is valid JSON."""
    path = tmp_path / "gr\udcfc\udcdfe.png"
    path.write_bytes(model.raw[0])
    (record,) = original.predict([path], "tflite")
    assert record["file"].endswith("gr��e.png")
    assert json.dumps(record, ensure_ascii=False).encode("utf-8")


def test_predictions_of_several_heads_are_nested_by_head(tmp_path):
    """A tagging head predicts all labels that reach its threshold."""
    model = small({"kind": "classify()", "marks": "tag(threshold=0.3)"})
    bundle = write_bundle(tmp_path / "bundle", model, "tflite()")
    checks = [dataclasses.replace(CHECKS[0], format="tflite")]
    bundle = finalize_bundle(bundle, table(model), model.golden, {"test": SCORES}, checks)
    (tmp_path / "a.png").write_bytes(model.raw[0])
    (record,) = bundle.predict([tmp_path / "a.png"], "tflite")
    assert list(record) == ["file", "kind", "marks"]
    assert record["kind"]["label"] == NAMES[model.answers["kind/scores"][0].argmax()]
    over = [name for name, score in zip(NAMES, model.answers["marks/scores"][0], strict=True) if score >= 0.3]
    assert record["marks"]["label"] == over != []


def test_a_format_that_failed_verification_is_logged(original, model, tmp_path, capsys):
    """Predicting with a file that failed verification logs a warning."""
    (tmp_path / "a.png").write_bytes(model.raw[0])
    original.predict([tmp_path / "a.png"], "keras")
    assert capsys.readouterr().err == ""
    original.predict([tmp_path / "a.png"], "tflite")
    assert "tflite did not pass verification" in capsys.readouterr().err
