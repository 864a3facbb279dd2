"""Detection thresholds of each request: SavedModel, REST and NumPy give the same detections."""

import base64
import io
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_finetune.core.spec import parse_spec
from tfx_finetune.evaluation.scores import decode_outputs
from tfx_finetune.ops import detections
from tfx_finetune.serve.model_version import ModelVersion
from tfx_finetune.serve.requests import RequestError, parse_predict_request
from tfx_finetune.serve.responses import make_metadata
from tfx_finetune.tasks import localization
from tfx_finetune.types.components import BACKBONES, EXPORTS, MODALITIES, TASKS
from tfx_finetune.types.deployment import Servable
from tfx_finetune.types.task import ClassLabels

CLASSES = ("ägg", "猫")
THRESHOLDS = [(0.0, 0.6, 100), (0.0, 0.1, 100), (None, 0.6, 100), (0.0, 0.9, 3), (1.0, 0.5, 100), (0.0, 0.6, 0)]
"""(score threshold, IoU threshold, maximum detections) of each image; None: the score of its eighth detection."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """(model version, SavedModel as TensorFlow loads it) of an untrained detector."""
    keras.utils.set_random_seed(0)
    backbone = BACKBONES.build(parse_spec("convnet(size=64, channels=3, widths=(8, 12, 16, 24, 32, 32))"))
    spec = parse_spec("detect(dim=8, depth=1, neck=fpn(dim=8), max_detections=20)")
    task = TASKS.build(spec, ClassLabels(CLASSES, (3, 3), 6))
    outputs = {f"objects/{name}": value for name, value in task.head(backbone.features).items()}
    model = keras.Model({"image": backbone.inputs}, decode_outputs({"objects": task}, outputs))
    modality = MODALITIES.build(parse_spec("image"), backbone.pretrained_cfg)
    postprocess_fns = {"objects": task.localization.postprocess_fn}
    nms_inputs = localization.collect_nms_inputs({"objects": task})
    export = EXPORTS.build(parse_spec("saved_model()"))
    path = tmp_path_factory.mktemp("served") / export.file_name
    servable = Servable(
        model,
        {"image": modality},
        {"objects": CLASSES},
        {},
        postprocess_fns=postprocess_fns,
        nms_inputs=nms_inputs,
    )
    export.write(servable, path)
    loaded_model = export.load(path)

    def preprocess(contents):
        return {"image": modality.prepare(modality.decode(tf.constant(contents["image"]))).numpy()[None]}

    model_version = ModelVersion(
        version=1,
        modalities={"image": modality},
        labels={},
        postprocess_fns=postprocess_fns,
        nms_inputs=nms_inputs,
        example_outputs=loaded_model.predict({"image": np.zeros((1, 64, 64, 3), np.float32)}),
        preprocess=preprocess,
        predict=loaded_model.predict,
    )
    return model_version, tf.saved_model.load(str(path))


@pytest.fixture(scope="module")
def images():
    """PNG files of noise in the input shape of the network, so that box fractions need no conversion."""
    rng = np.random.default_rng(0)
    files = []
    for _ in THRESHOLDS:
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


def predict(message, model_version):
    """The response of the server to a message."""
    inputs, make_response = parse_predict_request(message, model_version)
    return make_response(model_version.predict(inputs))


def test_each_image_has_its_own_thresholds(detector, images):
    """The signature `detect`, both REST formats and the NumPy function in bundles give the same detections."""
    model_version, saved_model = detector
    inputs = np.concatenate([model_version.preprocess({"image": file})["image"] for file in images])
    dense = model_version.predict({"image": inputs})
    dense_scores, dense_boxes = dense["objects/scores"], dense["objects/boxes"]
    eighth_score = float(detections.postprocess_detections(dense_scores[2], dense_boxes[2], 0.0)[1][7])
    thresholds = [(eighth_score if score is None else score, *others) for score, *others in THRESHOLDS]
    columns = dict(zip(model_version.nms_inputs, map(list, zip(*thresholds, strict=True)), strict=True))
    tensors = {name: tf.constant(values, model_version.nms_inputs[name]) for name, values in columns.items()}
    signature = saved_model.signatures["detect"]
    outputs = {name: value.numpy() for name, value in signature(image=tf.constant(images), **tensors).items()}
    counts = []
    for row, (score_threshold, iou_threshold, max_detections) in enumerate(thresholds):
        boxes, scores, labels = (
            values[:max_detections]
            for values in detections.postprocess_detections(
                dense_scores[row], dense_boxes[row], score_threshold, iou_threshold, 20
            )
        )
        count = len(scores)
        counts.append(count)
        np.testing.assert_allclose(outputs["objects/scores"][row], np.pad(scores, (0, 20 - count)), atol=1e-6)
        np.testing.assert_allclose(outputs["objects/boxes"][row, :count], boxes, atol=1e-5)
        names = [name.decode() for name in outputs["objects/labels"][row, :count]]
        assert names == [CLASSES[label] for label in labels]
    assert [counts[0], *counts[2:]] == [20, 8, 3, 0, 0]
    contents = [{"b64": base64.b64encode(file).decode()} for file in images]
    message = {"signature_name": "detect", "inputs": {"image": contents, **columns}}
    by_column = predict(message, model_version)["outputs"]
    rows = [dict(zip(("image", *columns), row, strict=True)) for row in zip(contents, *columns.values(), strict=True)]
    by_row = predict({"signature_name": "detect", "instances": rows}, model_version)["predictions"]
    for name in ("objects/scores", "objects/boxes"):
        np.testing.assert_allclose(by_column[name], outputs[name], atol=1e-6)
        np.testing.assert_allclose([row[name] for row in by_row], outputs[name], atol=1e-6)


def test_default_thresholds_are_the_options_of_the_head(detector, images):
    """`serving_default` equals `detect` with score_threshold=0.05; the metadata describe all three signatures."""
    model_version, saved_model = detector
    default_outputs = saved_model.signatures["serving_default"](image=tf.constant(images))
    defaults = {"score_threshold": [0.05], "iou_threshold": [0.6], "max_detections": [20]}
    tensors = {
        name: tf.constant(value * len(images), model_version.nms_inputs[name]) for name, value in defaults.items()
    }
    for name, value in saved_model.signatures["detect"](image=tf.constant(images), **tensors).items():
        np.testing.assert_array_equal(value, default_outputs[name])
    signatures = make_metadata("m", model_version)["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "tensor", "detect"}
    assert set(signatures["detect"]["inputs"]) == {"image", *defaults}
    dtypes = {"DT_FLOAT": tf.float32, "DT_INT32": tf.int32, "DT_STRING": tf.string}
    for name, spec in saved_model.signatures["detect"].structured_input_signature[1].items():
        tensor_info = signatures["detect"]["inputs"][name]
        sizes = [int(dim["size"]) for dim in tensor_info["tensor_shape"]["dim"]]
        assert sizes == [-1] == [dim or -1 for dim in spec.shape]
        assert dtypes[tensor_info["dtype"]] == spec.dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_threshold": "0.5"}, "Invalid score_threshold of sample 0: '0.5'. Expected: a number >= 0."),
        ({"score_threshold": None}, "Invalid score_threshold of sample 0: None. Expected: a number >= 0."),
        ({"iou_threshold": -1}, "Invalid iou_threshold of sample 0: -1. Expected: a number >= 0."),
        ({"max_detections": 2.5}, "Invalid max_detections of sample 0: 2.5. Expected: an integer >= 0."),
        ({"max_detections": True}, "Invalid max_detections of sample 0: True. Expected: an integer >= 0."),
        ({"threshold": 0.5}, "Expected: image, score_threshold, iou_threshold, max_detections."),
    ],
)
def test_invalid_thresholds_are_request_errors(detector, images, changes, message):
    """The error is raised before the model predicts."""
    thresholds = {"score_threshold": 0.5, "iou_threshold": 0.5, "max_detections": 10} | changes
    sample = {"image": {"b64": base64.b64encode(images[0]).decode()}} | thresholds
    with pytest.raises(RequestError, match=re.escape(message)):
        parse_predict_request({"signature_name": "detect", "instances": [sample]}, detector[0])
