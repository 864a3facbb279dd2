"""What a server is told of a picture counts in it: the same from a SavedModel, by REST, and as NumPy has it."""

import base64
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_finetune.core.spec import parse_spec
from tfx_finetune.evaluation.scores import decode_outputs
from tfx_finetune.ops import detections
from tfx_finetune.serve import rest
from tfx_finetune.serve.model_version import ModelVersion
from tfx_finetune.tasks import localization
from tfx_finetune.types.components import BACKBONES, EXPORTS, MODALITIES, TASKS
from tfx_finetune.types.deployment import Servable
from tfx_finetune.types.task import ClassLabels

NAMES = ("ägg", "猫")
ASKED = [(0.0, 0.6, 100), (0.0, 0.1, 100), (None, 0.6, 100), (0.0, 0.9, 3), (1.0, 0.5, 100), (0.0, 0.6, 0)]
"""Score and overlap from which a picture's objects count, and how many; once the score of the picture's eighth."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """An untrained detector as a SavedModel, opened by TensorFlow alone and by the server."""
    keras.utils.set_random_seed(0)
    backbone = BACKBONES.build(parse_spec("convnet(size=64, channels=3, widths=(8, 12, 16, 24, 32, 32))"))
    spec = parse_spec("detect(dim=8, depth=1, neck=fpn(dim=8), max_detections=20)")
    task = TASKS.build(spec, ClassLabels(NAMES, (3, 3), 6))
    outputs = {f"seen/{name}": value for name, value in task.head(backbone.features).items()}
    model = keras.Model({"image": backbone.inputs}, decode_outputs({"seen": task}, outputs))
    modalities = {"image": MODALITIES.build(parse_spec("image"), backbone.card)}
    found, export = {"seen": task.places.found}, EXPORTS.build(parse_spec("saved_model()"))
    known = localization.collect_nms_inputs({"seen": task})
    path = tmp_path_factory.mktemp("served") / export.file
    export.write(Servable(model, modalities, {"seen": NAMES}, {}, postprocess_fns=found, nms_inputs=known), path)
    reader = export.load(path)

    def prepare(raw):
        pixels = modalities["image"].prepare(modalities["image"].decode(tf.constant(raw["image"])))
        return {"image": pixels.numpy()[None]}

    golden = reader.predict({"image": np.zeros((1, 64, 64, 3), np.float32)})
    return ModelVersion(1, modalities, {}, found, known, golden, prepare, reader.predict), tf.saved_model.load(
        str(path)
    )


@pytest.fixture(scope="module")
def pictures():
    """Noise in the shape that the network takes, so that shares of it are shares of the picture."""
    rng = np.random.default_rng(0)
    files = []
    for _ in ASKED:
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


def asked(message, who):
    samples, answer = rest.parse_predict_request(message, who)
    return answer(who.predict(samples))


def test_each_picture_has_its_own(served, pictures):
    """As the program in a bundle finds them, by the signature and by rows and columns of a request."""
    who, loaded = served
    dense = who.predict({"image": np.concatenate([who.prepare({"image": file})["image"] for file in pictures])})
    eighth = float(detections.postprocess_detections(dense["seen/scores"][2], dense["seen/boxes"][2], 0.0)[1][7])
    limits = [(eighth if score is None else score, *others) for score, *others in ASKED]
    columns = dict(zip(who.limits, map(list, zip(*limits, strict=True)), strict=True))
    told = {name: tf.constant(values, who.limits[name]) for name, values in columns.items()}
    found = {
        name: value.numpy() for name, value in loaded.signatures["detect"](image=tf.constant(pictures), **told).items()
    }
    counts = []
    for row, (score, overlap, most) in enumerate(limits):
        places = dense["seen/scores"][row], dense["seen/boxes"][row]
        boxes, scores, classes = (
            each[:most] for each in detections.postprocess_detections(*places, score, overlap, 20)
        )
        count = len(scores)
        counts.append(count)
        np.testing.assert_allclose(found["seen/scores"][row], np.pad(scores, (0, 20 - count)), atol=1e-6)
        np.testing.assert_allclose(found["seen/boxes"][row, :count], boxes, atol=1e-5)
        assert [name.decode() for name in found["seen/labels"][row, :count]] == [NAMES[each] for each in classes]
    assert [counts[0], *counts[2:]] == [20, 8, 3, 0, 0]
    images = [{"b64": base64.b64encode(file).decode()} for file in pictures]
    by_column = asked({"signature_name": "detect", "inputs": {"image": images, **columns}}, who)["outputs"]
    rows = [dict(zip(("image", *columns), row, strict=True)) for row in zip(images, *columns.values(), strict=True)]
    by_row = asked({"signature_name": "detect", "instances": rows}, who)["predictions"]
    for name in ("seen/scores", "seen/boxes"):
        np.testing.assert_allclose(by_column[name], found[name], atol=1e-6)
        np.testing.assert_allclose([row[name] for row in by_row], found[name], atol=1e-6)


def test_without_them_the_options_of_the_head_count(served, pictures):
    """min_score=0.05, of which nothing here is; a server says which signatures there are."""
    who, loaded = served
    own = loaded.signatures["serving_default"](image=tf.constant(pictures))
    given = {"score_threshold": [0.05], "iou_threshold": [0.6], "max_detections": [20]}
    told = {name: tf.constant(value * len(pictures), who.limits[name]) for name, value in given.items()}
    for name, value in loaded.signatures["detect"](image=tf.constant(pictures), **told).items():
        np.testing.assert_array_equal(value, own[name])
    signatures = rest.make_metadata("m", who)["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "tensor", "detect"}
    assert set(signatures["detect"]["inputs"]) == {"image", *given}
    written = loaded.signatures["detect"].structured_input_signature[1]
    for name, spec in written.items():
        said = signatures["detect"]["inputs"][name]
        assert [int(dim["size"]) for dim in said["tensor_shape"]["dim"]] == [-1] == [dim or -1 for dim in spec.shape]
        assert {"DT_FLOAT": tf.float32, "DT_INT32": tf.int32, "DT_STRING": tf.string}[said["dtype"]] == spec.dtype


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"score_threshold": "0.5"}, "score_threshold of sample 0 is '0.5'; allowed: a number of 0 or more"),
        ({"score_threshold": None}, "score_threshold of sample 0 is None; allowed: a number"),
        ({"iou_threshold": -1}, "iou_threshold of sample 0 is -1; allowed"),
        ({"max_detections": 2.5}, "max_detections of sample 0 is 2.5; allowed: a whole number of 0 or more"),
        ({"max_detections": True}, "max_detections of sample 0 is True"),
        ({"threshold": 0.5}, "a sample has the inputs image, score_threshold, iou_threshold, max_detections; received"),
    ],
)
def test_bad_thresholds_are_said(served, pictures, changed, said):
    """In one line, before anything is predicted."""
    sample = {"image": {"b64": base64.b64encode(pictures[0]).decode()}}
    told = {"score_threshold": 0.5, "iou_threshold": 0.5, "max_detections": 10} | changed
    with pytest.raises(rest.RequestError, match=said):
        rest.parse_predict_request({"signature_name": "detect", "instances": [sample | told]}, served[0])
