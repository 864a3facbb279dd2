"""Detection and segmentation with the commands: train, predict, evaluate, export and serve."""

import base64
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.assets import fetch_asset
from tests.helpers.commands import get_error, run_in_process
from tests.helpers.servers import running_server
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.types.components import SOURCES, TASKS

pytestmark = pytest.mark.slow

DATA = "tux_scenes(train=32, val=8, test=8, side=64, objects=(1, 3), scale=(0.3, 0.6))"
HEADS = "objects=detect(dim=16, depth=1, neck=fpn(dim=16)), mask=segment(neck=fpn(dim=16), stride=8)"
FLAGS = (
    f"--data={DATA}",
    f"--heads={HEADS}",
    "--backbone=convnet(size=64, channels=3, widths=(8, 12, 16, 24, 32, 32))",
    "--augment=flip()",
    "--batch_size=8",
    "--frozen.epochs=0",
    "--finetune.epochs=15",
    "--finetune.unfreeze=all",
    "--finetune.learning_rate=0.01",
    "--nofinetune.wise_ft",
    "--exports=keras_file(), saved_model(), tflite(), tflite(quantize='int8')",
    "--verify.max_drop=1",
    "--nocache.enabled",
)


@pytest.fixture(scope="session")
def bundle(make_once):
    """Train both heads on one backbone, too briefly to be accurate."""
    fetch_asset("tux-stamps")
    fetch_asset("opencv-photographs")

    def make(workdir):
        process = run_in_process("train", *FLAGS, f"--workdir={workdir}")
        assert process.returncode == 0, process.stderr[-2000:]

    return make_once("finding", make)[0] / "bundle"


@pytest.fixture
def pictures(bundle, tmp_path):
    """Return a folder with two golden images, resized to another size than the model's."""
    folder = tmp_path / "photos"
    folder.mkdir()
    golden = sorted(path for path in (bundle / "golden").iterdir() if path.suffix in (".png", ".jpg"))
    for position, path in enumerate(golden[:2]):
        Image.open(path).convert("RGB").resize((96, 48)).save(folder / f"{position + 7}.png")
    return folder


def test_both_heads_are_verified_in_every_file(bundle):
    """The trained model has mAP and mIoU, and all files pass verification."""
    scores = json.loads((bundle / "scores.json").read_text())
    assert {"objects/map", "objects/ap50", "mask/miou", "mask/pixel_accuracy"} <= set(scores["test"])
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert all(manifest["verified"].values())
    assert set(manifest["verified"]) == {"keras", "saved_model", "tflite", "tflite_int8"}


@pytest.mark.parametrize("format", ["keras", "saved_model", "tflite", "tflite_int8"])
def test_predictions_are_in_pixels_of_the_original_image(bundle, pictures, tmp_path, format):
    """Boxes, masks and drawings have the coordinates of the original image."""
    drawings, results = tmp_path / "drawn", tmp_path / "results.json"
    flags = [f"--bundle={bundle}", f"--format={format}", f"--save_pictures={drawings}", f"--coco_results={results}"]
    process = run_in_process("predict", *flags, pictures)
    assert process.returncode == 0, process.stderr
    records = [json.loads(line) for line in process.stdout.splitlines()]
    assert [record["file"].rsplit("/", 1)[1] for record in records] == ["7.png", "8.png"]
    for record in records:
        assert sum(record["mask"]["scores"].values()) == pytest.approx(1)
        for item in record["objects"]["objects"]:
            left, top, right, bottom = item["box"]
            assert 0 <= left <= right <= 96
            assert 0 <= top <= bottom <= 48
    assert sorted(path.name for path in drawings.iterdir()) == sorted(
        f"{name}.{kind}.png" for name in (7, 8) for kind in ("objects", "mask", "mask.mask")
    )
    assert all(Image.open(path).size == (96, 48) for path in drawings.iterdir())
    assert np.asarray(Image.open(drawings / "7.mask.mask.png")).max() <= 6
    coco_records = json.loads(results.read_text())
    assert sorted(item["score"] for item in coco_records if item["score"] >= 0.3) == pytest.approx(
        sorted(item["score"] for record in records for item in record["objects"]["objects"])
    )
    assert {item["image_id"] for item in coco_records} == {7, 8}


def test_coco_results_have_the_ids_of_a_coco_file(bundle, pictures, tmp_path):
    """Image and category IDs are those of --coco_ids; invalid use of the flag is refused."""
    names = Bundle.open(bundle).tasks["objects"].labels.names
    coco_file = {"images": [{"id": 70 + number, "file_name": f"{number}.png"} for number in (7, 8)], "annotations": []}
    coco_file["categories"] = [{"id": 10 * number, "name": name} for number, name in enumerate(names, 1)]
    ids, results = tmp_path / "ids.json", tmp_path / "results.json"
    ids.write_text(json.dumps(coco_file))
    process = run_in_process(
        "predict", f"--bundle={bundle}", f"--coco_results={results}", f"--coco_ids={ids}", pictures
    )
    assert process.returncode == 0, process.stderr
    coco_records = json.loads(results.read_text())
    assert {item["image_id"] for item in coco_records} == {77, 78}
    assert {item["category_id"] for item in coco_records} <= {10 * number for number in range(1, 1 + len(names))}
    error = get_error("predict", f"--bundle={bundle}", f"--coco_ids={ids}", pictures)
    assert "--coco_ids needs --coco_results" in error
    error = get_error("predict", f"--bundle={bundle}", f"--coco_results={results}", "--coco_ids=none.json", pictures)
    assert "Cannot read the COCO file" in error


def test_images_with_the_same_name_have_separate_drawings(bundle, pictures, tmp_path):
    """Images with the same name in two folders have two drawings."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "7.png").write_bytes((pictures / "8.png").read_bytes())
    drawings = tmp_path / "drawn"
    process = run_in_process(
        "predict", f"--bundle={bundle}", f"--save_pictures={drawings}", pictures / "7.png", other / "7.png"
    )
    assert process.returncode == 0, process.stderr
    assert {path.name for path in drawings.iterdir()} >= {"7.objects.png", "7-2.objects.png", "7-2.mask.mask.png"}


def test_the_helper_file_detects_like_keras(bundle):
    """On 100 scenes, detections.py makes the same objects of the TFLite file's outputs as Keras."""
    spec = importlib.util.spec_from_file_location("detections", bundle / "detections.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    opened = Bundle.open(bundle)
    labels = opened.tasks["objects"].labels
    # Too little was learned for scores that would be printed: the surest of all are compared.
    keras = TASKS.build(parse_spec("detect(dim=16, depth=1, neck=fpn(dim=16), score_threshold=0)"), labels)
    predict_fns = {format: opened.load_model(format).predict for format in ("keras", "tflite")}
    scenes = SOURCES.build(parse_spec(DATA.replace("train=32", "train=100"))).read("train")
    num_different = 0
    for sample in scenes.as_numpy_iterator():
        inputs = opened.preprocess({"image": Path(sample["image"].decode()).read_bytes()})
        outputs = {format: predict_fns[format](inputs) for format in predict_fns}
        (expected,) = keras.postprocess({name: outputs["keras"][f"objects/{name}"] for name in ("scores", "boxes")})
        tflite_outputs = outputs["tflite"]["objects/scores"][0], outputs["tflite"]["objects/boxes"][0]
        boxes, scores, classes = program.postprocess_detections(*tflite_outputs, score_threshold=0)
        for *box, score, label in expected[:20].tolist():
            is_near = (np.abs(boxes * 64 - box).max(-1) <= 1) & (classes == label) & (np.abs(scores - score) < 1e-3)
            num_different += not is_near.any()
    # Of two boxes that overlap by the limit to the last digit, one file may keep what the other leaves out.
    assert num_different <= 2


def test_compressed_export_in_other_formats(bundle, tmp_path):
    """A finished run with both heads is compressed and exported; all files have the same scores."""
    shutil.copytree(bundle.parent, tmp_path / "run")
    bundle_copy = tmp_path / "run" / "bundle"
    exports = "keras_file(), onnx(), openvino(), tflite(quantize='float16'), tflite(quantize='int8')"
    process = run_in_process(
        "export", f"--bundle={bundle_copy}", "--compress=prune(epochs=1), qat(epochs=1)", f"--exports={exports}"
    )
    assert process.returncode == 0, process.stderr
    scores = json.loads((bundle_copy / "scores.json").read_text())
    formats = ("keras", "onnx", "openvino", "tflite_float16", "tflite_int8")
    assert set(scores) >= set(formats)
    for format in formats:
        assert not scores[format]["failure_reason"]
        for name in ("objects/map", "mask/miou"):
            assert scores[format][name] == pytest.approx(scores["test"][name], abs=0.02)
    assert scores["tflite_int8"]["sparsity"] >= 0.4
    assert scores["test"]["objects/map"] != json.loads((bundle / "scores.json").read_text())["test"]["objects/map"]
    process = run_in_process(
        "benchmark", f"--bundle={bundle_copy}", "--format=tflite_int8", "--threads=1", "--repeats=3"
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["latency"] > 0


def test_evaluate_repeats_the_test_scores(bundle):
    """`evaluate` on the test split has the scores of the run."""
    process = run_in_process("evaluate", f"--bundle={bundle}", f"--data={DATA}", "--split=test")
    assert process.returncode == 0, process.stderr
    scores = json.loads(process.stdout)
    run_scores = json.loads((bundle / "scores.json").read_text())
    assert scores["samples"] == 8
    for name in ("objects/map", "mask/miou", "mask/pixel_accuracy"):
        assert scores[name] == pytest.approx(run_scores["test"][name], abs=1e-6)


def test_a_saved_model_predicts_raw_images(bundle, pictures):
    """The SavedModel outputs boxes as fractions, scores, labels and masks."""
    opened = Bundle.open(bundle)
    outputs = opened.load_model("saved_model").predict_raw(
        {"image": [path.read_bytes() for path in sorted(pictures.iterdir())]}
    )
    assert set(outputs) == {"objects/boxes", "objects/scores", "objects/labels", "mask/mask"}
    assert outputs["objects/boxes"].shape == (2, 100, 4)
    assert outputs["objects/scores"].shape == outputs["objects/labels"].shape == (2, 100)
    assert outputs["mask/mask"].shape == (2, 64, 64)
    assert 0 <= outputs["objects/boxes"].min() <= outputs["objects/boxes"].max() <= 1
    labels = set(outputs["objects/labels"][outputs["objects/scores"] > 0].tolist())
    assert labels <= {name.encode() for name in opened.tasks["objects"].labels.names}
    assert set(outputs["objects/labels"][outputs["objects/scores"] == 0].tolist()) <= {b""}


def test_a_server_accepts_thresholds(bundle, pictures):
    """A request with thresholds has the predictions of the signature `detect`."""
    files = [path.read_bytes() for path in sorted(pictures.iterdir())]
    thresholds = {"score_threshold": [0.0, 2.0], "iou_threshold": [0.6, 0.6], "max_detections": [3, 3]}
    signature = tf.saved_model.load(str(bundle / "saved_model")).signatures["detect"]
    expected = signature(image=tf.constant(files), **{name: tf.constant(values) for name, values in thresholds.items()})
    images = [{"b64": base64.b64encode(file).decode()} for file in files]
    with running_server(bundle) as server:
        status, message = server.predict({"signature_name": "detect", "inputs": {"image": images, **thresholds}})
    assert status == 200, message
    scores = np.array(message["outputs"]["objects/scores"])
    assert (scores > 0).sum(1).tolist() == [3, 0]
    np.testing.assert_allclose(scores, expected["objects/scores"], atol=1e-5)
    np.testing.assert_allclose(message["outputs"]["objects/boxes"], expected["objects/boxes"], atol=1e-4)


def test_the_report_shows_images(bundle):
    """The report has images with annotations and predictions of both heads, and the errors by type."""
    page = (bundle.parent / "report.html").read_text()
    assert 'id="examples"' in page
    assert page.count('<div class="both">') == 16
    assert page.count("<h3>Precision and recall</h3>") == 1
    scores = json.loads((bundle / "scores.json").read_text())["test"]
    (table,) = re.findall(r"<h3>Detection errors</h3>.*?</table>", page, re.DOTALL)
    errors = dict(re.findall(r'<th scope="row">(\w+)</th><td class="n">([\d.]+)</td>', table))
    assert list(errors) == ["class", "localization", "both", "duplicate", "background", "missed"]
    for kind, share in errors.items():
        assert float(share) == pytest.approx(scores[f"objects/error_{kind}"], abs=1e-3)


def test_data_checks_scenes_but_does_not_fix_them(tmp_path):
    """`data --fix` writes labels only, and refuses boxes."""
    fetch_asset("tux-stamps")
    process = run_in_process("data", f"--data={DATA}", f"--heads={HEADS}", "--backbone=", f"--workdir={tmp_path}")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "data.html").is_file()
    process = run_in_process(
        "data", f"--data={DATA}", f"--heads={HEADS}", "--backbone=", f"--workdir={tmp_path}", "--fix"
    )
    assert process.returncode == 2
    assert "--fix writes labels only" in process.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--augment=mixup()"], "Augments that mix images do not support detection and segmentation"),
        (["--heads=a=detect(), b=detect()"], "Two heads have the same detection or segmentation task"),
        (["--teacher=somewhere"], "--teacher does not support detection and segmentation heads"),
        (
            ["--backbone=image=convnet(), text=bag_of_embeddings()"],
            "A detection or segmentation head needs a model with one image input",
        ),
        (["--backbone=convnet(size=64, channels=3)"], "detect() needs a feature level that the backbone lacks"),
        (
            ["--backbone=convnet(size=68, channels=3, widths=(8, 8, 8, 8, 8, 8))"],
            "The input size does not fit the head",
        ),
    ],
)
def test_unsupported_options_are_refused(flags, message, tmp_path):
    """Options that detection and segmentation do not support end with status 2 and one line."""
    process = run_in_process("train", *FLAGS, *flags, f"--workdir={tmp_path}")
    assert process.returncode == 2
    assert message in process.stderr.strip().splitlines()[-1]
