"""Verification: correct files pass, and files of another or broken model fail."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.small_model import small, write_bundle
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core import files
from tfx_finetune.core.config import VerifyOptions
from tfx_finetune.deploy.verify import compute_allowed_drop, verify
from tfx_finetune.ops import litert
from tfx_finetune.training.feature_cache import FeatureStore

EVERY = (
    "keras_file(), saved_model(), tflite(), tflite(quantize='float16'), tflite(quantize='dynamic'), "
    "tflite(quantize='int8')"
)
HEADS = {"kind": "classify()", "marks": "tag()"}
WIDE = VerifyOptions(max_drop=0.1)  # what 8 bits may lose of a network this small


@pytest.fixture(scope="module")
def model():
    """Return a model with 100 samples in order of brightness."""
    small_model = small(HEADS, count=100)
    order = np.argsort(small_model.pixels.mean((1, 2, 3)))
    answers = {name: values[order] for name, values in small_model.answers.items()}
    return small_model._replace(
        pixels=small_model.pixels[order], raw=[small_model.raw[i] for i in order], answers=answers
    )


@pytest.fixture(scope="module")
def original(model, tmp_path_factory):
    """Return a bundle with all formats."""
    return write_bundle(tmp_path_factory.mktemp("verify") / "bundle", model, EVERY)


@pytest.fixture
def bundle(original, tmp_path):
    """Return a copy of the bundle, to be broken."""
    shutil.copytree(original.path, tmp_path / "bundle")
    return Bundle(tmp_path / "bundle", original.manifest)


def only(bundle, *formats):
    """Return the bundle with only these formats."""
    return Bundle(bundle.path, bundle.manifest | {"files": {name: bundle.manifest["files"][name] for name in formats}})


def checks(bundle, model, gate=WIDE):
    test = FeatureStore(({"image": model.pixels},), model.targets, {})
    results = verify(bundle, model.golden, test, (model.targets, model.answers), gate)
    assert [check.format for check in results] == bundle.formats
    return {check.format: check for check in results}


def failed_result(bundle, model, format, gate=WIDE):
    """Return the verification result of a format that fails, while another one passes."""
    results = checks(only(bundle, format, "tflite_dynamic"), model, gate)
    assert results["tflite_dynamic"].failure_reason == ""
    assert results[format].failure_reason
    assert "\n" not in results[format].failure_reason
    return results[format]


def overwrite(bundle, model, format):
    """Write the file of another model into the bundle."""
    export = bundle.get_export(format)
    export.write(model.servable, bundle.path / export.file_name)


def tflite(run, path, size=16):
    """Write a TFLite file of a function from an image to outputs by name."""
    spec = tf.TensorSpec([1, size, size, 3], tf.float32, name="image")
    names = list(run(tf.zeros(spec.shape)))
    frozen = litert.freeze(lambda image: [run(image)[name] for name in names], [spec])
    module = tf.Module()
    module.serve = tf.function(lambda image: dict(zip(names, frozen(image), strict=True)), input_signature=[spec])
    convert(module, path)


def convert(module, path):
    folder = path.parent / "module"
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert())


def spoil(model, path, lost, how):
    """Write a file whose scores of the head kind are changed by `how` for the `lost` brightest samples."""
    bright = np.sort(model.pixels.mean((1, 2, 3)))
    limit = float((bright[-lost - 1] + bright[-lost]) / 2) if lost else 256.0

    def run(image):
        outputs = model.servable.model({"image": image}, training=False)
        scores = outputs["kind/scores"]
        return outputs | {"kind/scores": tf.where(tf.reduce_mean(image) > limit, how(scores), scores)}

    tflite(run, path)


def shift_classes(scores):
    """Give each class the score of the next class."""
    return tf.concat([scores[:, 1:], scores[:, :1]], axis=-1)


# ---- what passes


def test_every_format_of_the_trained_model_passes(original, model):
    """Results have scores, drop, interval, sizes, latency and operators of each format."""
    results = checks(original, model)
    for format, check in results.items():
        assert check.failure_reason == "", format
        assert check.difference <= original.get_export(format).tolerance
        assert check.ci_high - check.ci_low < 0.3
        assert check.latency > 0
        assert 0.8 < check.agreement <= 1
        assert 0 < check.compressed_bytes < check.bytes == files.compute_size(original.get_path(format))
        assert (check.total_ops is None) == (check.memory is None) == (not format.startswith("tflite"))
        each = check.scores["kind/accuracy"], check.scores["marks/mean_average_precision"]
        assert check.score == pytest.approx(sum(each) / 2)
        # The model is always right here, so that what is lost is what is missing.
        assert check.score_drop == pytest.approx(1 - check.score)
    for format in ("keras", "saved_model", "tflite"):
        assert results[format].score_drop == pytest.approx(0)
        assert results[format].difference < 1e-5
        assert results[format].ci_low < 0 < results[format].ci_high
        assert results[format].agreement == 1
    # Every operator of an int8 file computes in int8; of the shift_classes, only their weights are small.
    assert {format: check.float_ops for format, check in results.items() if check.total_ops} == {
        "tflite_int8": 0,
        **dict.fromkeys(("tflite", "tflite_float16", "tflite_dynamic"), results["tflite"].total_ops),
    }
    assert results["tflite"].single_thread_latency > 0
    assert 0 < results["tflite"].memory < 100
    assert 1e-5 < results["tflite_float16"].difference < 0.02
    assert results["tflite_int8"].difference > results["tflite_float16"].difference


# ---- what does not


def test_a_tflite_file_without_weights_fails(bundle, model):
    """TensorFlow 2.21 converts a `tf.Module` with a Keras 3 model without an error and without its weights."""
    module = tf.Module()
    module.model = model.servable.model
    spec = tf.TensorSpec([1, 16, 16, 3], tf.float32, name="image")
    module.serve = tf.function(lambda image: module.model({"image": image}, training=False), input_signature=[spec])
    convert(module, bundle.path / "model.tflite")
    reason = failed_result(bundle, model, "tflite").failure_reason
    assert "empty or broken" in reason or "on a golden sample" in reason


def test_nan_outputs_fail(bundle, model):
    """A file whose outputs are NaN has an infinite difference and a score drop of 1."""
    spoil(model, bundle.path / "model.tflite", 99, lambda scores: scores * np.nan)
    check = failed_result(bundle, model, "tflite")
    assert "empty or broken" in check.failure_reason
    assert check.difference == math.inf
    assert check.score_drop == 1


@pytest.mark.parametrize("format", ["keras", "tflite"])
def test_the_file_of_another_model_fails(format, bundle, model):
    """A file of a model with other weights differs on the golden samples."""
    overwrite(bundle, small(HEADS, seed=1), format)
    check = failed_result(bundle, model, format)
    assert "on a golden sample, allowed" in check.failure_reason
    assert check.difference > bundle.get_export(format).tolerance


@pytest.mark.parametrize("content", [None, b"", b"half of a file" * 100], ids=["missing", "empty", "other"])
@pytest.mark.parametrize("format", ["keras", "tflite_int8"])
def test_an_unreadable_file_fails(format, content, bundle, model):
    """A missing, empty or other file fails."""
    path = bundle.path / bundle.get_export(format).file_name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert "of this package" in failed_result(bundle, model, format).failure_reason


def test_a_file_with_another_input_size_fails(bundle, model):
    """A file that raises an error when it runs fails, and the next file is verified."""
    tflite(lambda image: {"kind/scores": image[:, 0, 0]}, bundle.path / "model.tflite", size=8)
    assert failed_result(bundle, model, "tflite").difference == math.inf


def test_a_file_without_a_head_fails(bundle, model):
    """A file with correct outputs of one head, but without the other head, fails."""
    run = model.servable.model
    tflite(lambda x: {"kind/scores": run({"image": x}, training=False)["kind/scores"]}, bundle.path / "model.tflite")
    assert "have another shape" in failed_result(bundle, model, "tflite").failure_reason


def test_a_saved_model_with_other_preprocessing_fails(bundle, model):
    """Raw inputs are verified besides prepared ones."""
    served = model.servable
    upright = model.modality
    mirrored = dataclasses.replace(upright, prepare=lambda pixels: upright.prepare(pixels)[:, ::-1, ::-1])
    servable = dataclasses.replace(served, modalities={"image": mirrored})
    overwrite(bundle, model._replace(servable=servable), "saved_model")
    assert "on a golden sample" in failed_result(bundle, model, "saved_model").failure_reason


def test_nan_outputs_on_test_samples_fail(bundle, model):
    """NaN outputs fail even if no golden sample has them."""
    spoil(model, bundle.path / "model.tflite", 1, lambda scores: scores * np.nan)
    assert "not finite" in failed_result(bundle, model, "tflite").failure_reason


# ---- the gate


@pytest.mark.parametrize(
    ("format", "lost", "gate", "reason"),
    [
        # One of 100 samples is less than the test set can tell apart; two are more than 0.001 of them.
        ("tflite", 1, VerifyOptions(), ""),
        ("tflite", 2, VerifyOptions(), "loses 0.0200 of kind/accuracy, allowed 0.0100"),
        # At the limit is within it, whatever the last digit of 1 - 0.98 is.
        ("tflite", 2, VerifyOptions(max_drop_float=0.02), ""),
        # No loss is no loss.
        ("tflite", 0, VerifyOptions(max_drop_float=0), ""),
        ("tflite", 1, VerifyOptions(max_drop_float=0), "loses 0.0100 of kind/accuracy, allowed 0.0000"),
        # 8 bits may lose 0.02.
        ("tflite_int8", 2, VerifyOptions(), ""),
        ("tflite_int8", 3, VerifyOptions(), "loses 0.0300 of kind/accuracy, allowed 0.0200"),
        ("tflite_int8", 3, VerifyOptions(max_drop=0.04), ""),
    ],
)
def test_the_gate_on_the_score_drop(format, lost, gate, reason, bundle, model):
    """Each head must be within the gate."""
    spoil(model, bundle.path / bundle.get_export(format).file_name, lost, shift_classes)
    check = checks(only(bundle, format), model, gate)[format]
    assert check.failure_reason == reason
    assert check.score_drop == pytest.approx(lost / 100 / 2)
    assert check.scores["kind/accuracy"] == pytest.approx(1 - lost / 100)


def test_the_allowed_drop_is_at_least_one_sample():
    """A limit above 0 allows one sample; 0 allows none."""
    assert compute_allowed_drop(0.02, 1000) == pytest.approx(0.02)
    assert compute_allowed_drop(0.02, 10) == pytest.approx(0.1)
    assert compute_allowed_drop(0.001, 195) == pytest.approx(1 / 195)
    assert compute_allowed_drop(0, 10) == pytest.approx(0, abs=1e-8)
