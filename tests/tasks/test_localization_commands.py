"""Detection and segmentation as a person uses them: one command trains, others predict and score what came out."""

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
    """A run of both heads on one tower, too short to find much."""
    fetch_asset("tux-stamps")
    fetch_asset("opencv-photographs")

    def make(workdir):
        done = run_in_process("train", *FLAGS, f"--workdir={workdir}")
        assert done.returncode == 0, done.stderr[-2000:]

    return make_once("finding", make)[0] / "bundle"


@pytest.fixture
def pictures(bundle, tmp_path):
    """Two held-out pictures, of another size than the model's."""
    folder = tmp_path / "photos"
    folder.mkdir()
    golden = sorted(path for path in (bundle / "golden").iterdir() if path.suffix in (".png", ".jpg"))
    for position, path in enumerate(golden[:2]):
        Image.open(path).convert("RGB").resize((96, 48)).save(folder / f"{position + 7}.png")
    return folder


def test_both_heads_are_scored_in_every_file(bundle):
    """mAP and mIoU of the trained model, and of what every file says of the same pictures."""
    scores = json.loads((bundle / "scores.json").read_text())
    assert {"objects/map", "objects/ap50", "mask/miou", "mask/pixel_accuracy"} <= set(scores["test"])
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert all(manifest["verified"].values())
    assert set(manifest["verified"]) == {"keras", "saved_model", "tflite", "tflite_int8"}


@pytest.mark.parametrize("format", ["keras", "saved_model", "tflite", "tflite_int8"])
def test_what_is_found_stands_in_pixels_of_the_picture(bundle, pictures, tmp_path, format):
    """Boxes lie in the picture as it came, masks have its size, and both are drawn into it."""
    drawn, results = tmp_path / "drawn", tmp_path / "results.json"
    flags = [f"--bundle={bundle}", f"--format={format}", f"--save_pictures={drawn}", f"--coco_results={results}"]
    done = run_in_process("predict", *flags, pictures)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["file"].rsplit("/", 1)[1] for record in records] == ["7.png", "8.png"]
    for record in records:
        assert sum(record["mask"]["scores"].values()) == pytest.approx(1)
        for each in record["objects"]["objects"]:
            left, top, right, bottom = each["box"]
            assert 0 <= left <= right <= 96
            assert 0 <= top <= bottom <= 48
    assert sorted(path.name for path in drawn.iterdir()) == sorted(
        f"{name}.{kind}.png" for name in (7, 8) for kind in ("objects", "mask", "mask.mask")
    )
    assert all(Image.open(path).size == (96, 48) for path in drawn.iterdir())
    assert np.asarray(Image.open(drawn / "7.mask.mask.png")).max() <= 6
    found = json.loads(results.read_text())
    assert sorted(each["score"] for each in found if each["score"] >= 0.3) == pytest.approx(
        sorted(each["score"] for record in records for each in record["objects"]["objects"])
    )
    assert {each["image_id"] for each in found} == {7, 8}


def test_results_have_the_ids_of_ones_own_file(bundle, pictures, tmp_path):
    """Of pictures and classes; a file that is none, or that nothing is written with, is said."""
    names = Bundle.open(bundle).tasks["objects"].labels.names
    known = {"images": [{"id": 70 + at, "file_name": f"{at}.png"} for at in (7, 8)], "annotations": []}
    known["categories"] = [{"id": 10 * at, "name": name} for at, name in enumerate(names, 1)]
    ids, results = tmp_path / "ids.json", tmp_path / "results.json"
    ids.write_text(json.dumps(known))
    done = run_in_process("predict", f"--bundle={bundle}", f"--coco_results={results}", f"--coco_ids={ids}", pictures)
    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text())
    assert {each["image_id"] for each in found} == {77, 78}
    assert {each["category_id"] for each in found} <= {10 * at for at in range(1, 1 + len(names))}
    said = get_error("predict", f"--bundle={bundle}", f"--coco_ids={ids}", pictures)
    assert "--coco_ids goes with --coco_results" in said
    said = get_error("predict", f"--bundle={bundle}", f"--coco_results={results}", "--coco_ids=none.json", pictures)
    assert "cannot read this COCO file" in said


def test_pictures_of_one_name_are_drawn_apart(bundle, pictures, tmp_path):
    """Where they come from two folders."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "7.png").write_bytes((pictures / "8.png").read_bytes())
    drawn = tmp_path / "drawn"
    done = run_in_process("predict", f"--bundle={bundle}", f"--save_pictures={drawn}", pictures / "7.png", other / "7.png")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in drawn.iterdir()} >= {"7.objects.png", "7-2.objects.png", "7-2.mask.mask.png"}


def test_a_phone_finds_what_keras_finds(bundle):
    """On 100 scenes: the bundle's own program makes of the TFLite file's answers the same boxes and classes."""
    spec = importlib.util.spec_from_file_location("detections", bundle / "detections.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    opened = Bundle.open(bundle)
    labels = opened.tasks["objects"].labels
    # Too little was learned for scores that would be printed: the surest of all are compared.
    keras = TASKS.build(parse_spec("detect(dim=16, depth=1, neck=fpn(dim=16), score_threshold=0)"), labels)
    answer = {format: opened.load_model(format).predict for format in ("keras", "tflite")}
    scenes = SOURCES.build(parse_spec(DATA.replace("train=32", "train=100"))).read("train")
    apart = 0
    for sample in scenes.as_numpy_iterator():
        inputs = opened.preprocess({"image": Path(sample["image"].decode()).read_bytes()})
        said = {format: answer[format](inputs) for format in answer}
        (wanted,) = keras.postprocess({name: said["keras"][f"objects/{name}"] for name in ("scores", "boxes")})
        own = said["tflite"]["objects/scores"][0], said["tflite"]["objects/boxes"][0]
        boxes, scores, classes = program.postprocess_detections(*own, score_threshold=0)
        for *box, score, label in wanted[:20].tolist():
            near = (np.abs(boxes * 64 - box).max(-1) <= 1) & (classes == label) & (np.abs(scores - score) < 1e-3)
            apart += not near.any()
    # Of two boxes that overlap by the limit to the last digit, one file may keep what the other leaves out.
    assert apart <= 2


def test_compressed_and_in_other_formats(bundle, tmp_path):
    """Both heads at once, of a finished run: half of the weights are zero, and all files find the same."""
    shutil.copytree(bundle.parent, tmp_path / "run")
    mine = tmp_path / "run" / "bundle"
    exports = "keras_file(), onnx(), openvino(), tflite(quantize='float16'), tflite(quantize='int8')"
    done = run_in_process("export", f"--bundle={mine}", "--compress=prune(epochs=1), qat(epochs=1)", f"--exports={exports}")
    assert done.returncode == 0, done.stderr
    scores = json.loads((mine / "scores.json").read_text())
    formats = ("keras", "onnx", "openvino", "tflite_float16", "tflite_int8")
    assert set(scores) >= set(formats)
    for format in formats:
        assert not scores[format]["failure_reason"]
        for name in ("objects/map", "mask/miou"):
            assert scores[format][name] == pytest.approx(scores["test"][name], abs=0.02)
    assert scores["tflite_int8"]["sparsity"] >= 0.4
    assert scores["test"]["objects/map"] != json.loads((bundle / "scores.json").read_text())["test"]["objects/map"]
    done = run_in_process("benchmark", f"--bundle={mine}", "--format=tflite_int8", "--threads=1", "--repeats=3")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["latency"] > 0


def test_evaluating_the_held_out_pictures_again_gives_the_same_scores(bundle):
    """The command sees what the run saw."""
    done = run_in_process("evaluate", f"--bundle={bundle}", f"--data={DATA}", "--split=test")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    known = json.loads((bundle / "scores.json").read_text())
    assert again["samples"] == 8
    for name in ("objects/map", "mask/miou", "mask/pixel_accuracy"):
        assert again[name] == pytest.approx(known["test"][name], abs=1e-6)


def test_a_saved_model_answers_raw_pictures(bundle, pictures):
    """With boxes in shares of the picture, scores, labels, and the mask."""
    opened = Bundle.open(bundle)
    outputs = opened.load_model("saved_model").predict_raw(
        {"image": [path.read_bytes() for path in sorted(pictures.iterdir())]}
    )
    assert set(outputs) == {"objects/boxes", "objects/scores", "objects/labels", "mask/mask"}
    assert outputs["objects/boxes"].shape == (2, 100, 4)
    assert outputs["objects/scores"].shape == outputs["objects/labels"].shape == (2, 100)
    assert outputs["mask/mask"].shape == (2, 64, 64)
    assert 0 <= outputs["objects/boxes"].min() <= outputs["objects/boxes"].max() <= 1
    said = set(outputs["objects/labels"][outputs["objects/scores"] > 0].tolist())
    assert said <= {name.encode() for name in opened.tasks["objects"].labels.names}
    assert set(outputs["objects/labels"][outputs["objects/scores"] == 0].tolist()) <= {b""}


def test_a_server_is_told_what_counts(bundle, pictures):
    """A request says how sure of how many objects it wants to be, and is answered as by the SavedModel's signature."""
    files = [path.read_bytes() for path in sorted(pictures.iterdir())]
    told = {"score_threshold": [0.0, 2.0], "iou_threshold": [0.6, 0.6], "max_detections": [3, 3]}
    signature = tf.saved_model.load(str(bundle / "saved_model")).signatures["detect"]
    wanted = signature(image=tf.constant(files), **{name: tf.constant(values) for name, values in told.items()})
    images = [{"b64": base64.b64encode(file).decode()} for file in files]
    with running_server(bundle) as server:
        status, message = server.predict({"signature_name": "detect", "inputs": {"image": images, **told}})
    assert status == 200, message
    scores = np.array(message["outputs"]["objects/scores"])
    assert (scores > 0).sum(1).tolist() == [3, 0]
    np.testing.assert_allclose(scores, wanted["objects/scores"], atol=1e-5)
    np.testing.assert_allclose(message["outputs"]["objects/boxes"], wanted["objects/boxes"], atol=1e-4)


def test_the_report_shows_pictures(bundle):
    """With what is in them and what was found, for both heads."""
    page = (bundle.parent / "report.html").read_text()
    assert 'id="examples"' in page
    assert page.count('<div class="both">') == 16
    assert page.count("<h3>Precision and recall</h3>") == 1
    scores = json.loads((bundle / "scores.json").read_text())["test"]
    (wrong,) = re.findall(r"<h3>Detection errors</h3>.*?</table>", page, re.DOTALL)
    shown = dict(re.findall(r'<th scope="row">(\w+)</th><td class="n">([\d.]+)</td>', wrong))
    assert list(shown) == ["class", "localization", "both", "duplicate", "background", "missed"]
    for kind, share in shown.items():
        assert float(share) == pytest.approx(scores[f"objects/error_{kind}"], abs=1e-3)


def test_what_is_wrong_with_scenes_is_found_but_not_mended(tmp_path):
    """A cleaned table has no column for boxes."""
    fetch_asset("tux-stamps")
    done = run_in_process("data", f"--data={DATA}", f"--heads={HEADS}", "--backbone=", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data.html").is_file()
    done = run_in_process("data", f"--data={DATA}", f"--heads={HEADS}", "--backbone=", f"--workdir={tmp_path}", "--fix")
    assert done.returncode == 2
    assert "--fix writes labels only" in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--augment=mixup()"], "Augments that mix images do not support detection and segmentation"),
        (["--heads=a=detect(), b=detect()"], "Two heads have the same detection or segmentation task"),
        (["--teacher=somewhere"], "--teacher does not support detection and segmentation heads"),
        (["--backbone=image=convnet(), text=bag_of_embeddings()"], "A detection or segmentation head needs a model with one image input"),
        (["--backbone=convnet(size=64, channels=3)"], "detect() needs a feature level that the backbone lacks"),
        (["--backbone=convnet(size=68, channels=3, widths=(8, 8, 8, 8, 8, 8))"], "The input size does not fit the head"),
    ],
)
def test_what_such_heads_cannot_do_is_said(flags, said, tmp_path):
    """In one line, with status 2."""
    done = run_in_process("train", *FLAGS, *flags, f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert said in done.stderr.strip().splitlines()[-1]
