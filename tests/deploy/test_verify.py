"""A file that is not the model that was trained does not pass, whatever is wrong with it."""

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
    """With 100 samples, the darkest first."""
    made = small(HEADS, count=100)
    order = np.argsort(made.pixels.mean((1, 2, 3)))
    answers = {name: values[order] for name, values in made.answers.items()}
    return made._replace(pixels=made.pixels[order], raw=[made.raw[i] for i in order], answers=answers)


@pytest.fixture(scope="module")
def original(model, tmp_path_factory):
    """A bundle of every format, written once."""
    return write_bundle(tmp_path_factory.mktemp("verify") / "bundle", model, EVERY)


@pytest.fixture
def bundle(original, tmp_path):
    """A copy of it, to be broken."""
    shutil.copytree(original.path, tmp_path / "bundle")
    return Bundle(tmp_path / "bundle", original.manifest)


def only(bundle, *formats):
    """The bundle as if it had no other files."""
    return Bundle(bundle.path, bundle.manifest | {"files": {name: bundle.manifest["files"][name] for name in formats}})


def checks(bundle, model, gate=WIDE):
    test = FeatureStore(({"image": model.pixels},), model.targets, {})
    found = verify(bundle, model.golden, test, (model.targets, model.answers), gate)
    assert [check.format for check in found] == bundle.formats
    return {check.format: check for check in found}


def refused(bundle, model, format, gate=WIDE):
    """What is found about a file that does not pass, beside one that does."""
    found = checks(only(bundle, format, "tflite_dynamic"), model, gate)
    assert found["tflite_dynamic"].failure_reason == ""
    assert found[format].failure_reason
    assert "\n" not in found[format].failure_reason
    return found[format]


def overwrite(bundle, model, format):
    """Puts the file of another model into the bundle."""
    export = bundle.get_export(format)
    export.write(model.servable, bundle.path / export.file_name)


def tflite(run, path, size=16):
    """Writes a TFLite file of a function from a picture to outputs by name."""
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
    """Writes a file that is wrong, in the way that `how` says, about the `lost` brightest samples of the head kind."""
    bright = np.sort(model.pixels.mean((1, 2, 3)))
    limit = float((bright[-lost - 1] + bright[-lost]) / 2) if lost else 256.0

    def run(image):
        outputs = model.servable.model({"image": image}, training=False)
        scores = outputs["kind/scores"]
        return outputs | {"kind/scores": tf.where(tf.reduce_mean(image) > limit, how(scores), scores)}

    tflite(run, path)


def others(scores):
    """Gives every class the score of the next one."""
    return tf.concat([scores[:, 1:], scores[:, :1]], axis=-1)


# ---- what passes


def test_every_format_of_the_trained_model_passes(original, model):
    """With its scores on the test split, what it loses and within which bounds, and its speed."""
    found = checks(original, model)
    for format, check in found.items():
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
        assert found[format].score_drop == pytest.approx(0)
        assert found[format].difference < 1e-5
        assert found[format].ci_low < 0 < found[format].ci_high
        assert found[format].agreement == 1
    # Every operator of an int8 file computes in int8; of the others, only their weights are small.
    assert {format: check.float_ops for format, check in found.items() if check.total_ops} == {
        "tflite_int8": 0,
        **dict.fromkeys(("tflite", "tflite_float16", "tflite_dynamic"), found["tflite"].total_ops),
    }
    assert found["tflite"].single_thread_latency > 0
    assert 0 < found["tflite"].memory < 100
    assert 1e-5 < found["tflite_float16"].difference < 0.02
    assert found["tflite_int8"].difference > found["tflite_float16"].difference


# ---- what does not


def test_the_empty_tflite_file_is_refused(bundle, model):
    """TensorFlow 2.21 converts a `tf.Module` that holds a Keras 3 model without an error, and without its weights.

    Its answers come from memory that nobody has filled: not numbers, or every class as likely as the others.
    """
    module = tf.Module()
    module.model = model.servable.model
    spec = tf.TensorSpec([1, 16, 16, 3], tf.float32, name="image")
    module.serve = tf.function(lambda image: module.model({"image": image}, training=False), input_signature=[spec])
    convert(module, bundle.path / "model.tflite")
    reason = refused(bundle, model, "tflite").failure_reason
    assert "empty or broken" in reason or "on a golden sample" in reason


def test_a_file_whose_outputs_are_no_numbers_is_refused(bundle, model):
    """It counts as one that has lost everything."""
    spoil(model, bundle.path / "model.tflite", 99, lambda scores: scores * np.nan)
    check = refused(bundle, model, "tflite")
    assert "empty or broken" in check.failure_reason
    assert check.difference == math.inf
    assert check.score_drop == 1


@pytest.mark.parametrize("format", ["keras", "tflite"])
def test_the_file_of_another_model_is_refused(format, bundle, model):
    """As an earlier run might leave it."""
    overwrite(bundle, small(HEADS, seed=1), format)
    check = refused(bundle, model, format)
    assert "on a golden sample, allowed" in check.failure_reason
    assert check.difference > bundle.get_export(format).tolerance


@pytest.mark.parametrize("content", [None, b"", b"half of a file" * 100], ids=["missing", "empty", "other"])
@pytest.mark.parametrize("format", ["keras", "tflite_int8"])
def test_a_file_that_cannot_be_opened_is_refused(format, content, bundle, model):
    """Missing, empty, or of another kind."""
    path = bundle.path / bundle.get_export(format).file_name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert "of this package" in refused(bundle, model, format).failure_reason


def test_a_file_for_other_pictures_is_refused(bundle, model):
    """It opens, and fails when it is run: the next file is checked all the same."""
    tflite(lambda image: {"kind/scores": image[:, 0, 0]}, bundle.path / "model.tflite", size=8)
    assert refused(bundle, model, "tflite").difference == math.inf


def test_a_file_without_one_of_the_heads_is_refused(bundle, model):
    """The head that it has is right."""
    run = model.servable.model
    tflite(lambda x: {"kind/scores": run({"image": x}, training=False)["kind/scores"]}, bundle.path / "model.tflite")
    assert "have another shape" in refused(bundle, model, "tflite").failure_reason


def test_a_saved_model_that_decodes_otherwise_is_refused(bundle, model):
    """Its signature for prepared pictures agrees; what it makes of encoded ones does not."""
    served = model.servable
    upright = model.modality
    mirrored = dataclasses.replace(upright, prepare=lambda pixels: upright.prepare(pixels)[:, ::-1, ::-1])
    servable = dataclasses.replace(served, modalities={"image": mirrored})
    overwrite(bundle, model._replace(servable=servable), "saved_model")
    assert "on a golden sample" in refused(bundle, model, "saved_model").failure_reason


def test_a_file_that_is_not_finite_on_some_test_sample_is_refused(bundle, model):
    """The golden samples, which are dark, do not show it."""
    spoil(model, bundle.path / "model.tflite", 1, lambda scores: scores * np.nan)
    assert "not finite" in refused(bundle, model, "tflite").failure_reason


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
def test_a_file_may_lose_so_much_and_no_more(format, lost, gate, reason, bundle, model):
    """Of each head by itself: the mean over both heads would be half of it."""
    spoil(model, bundle.path / bundle.get_export(format).file_name, lost, others)
    check = checks(only(bundle, format), model, gate)[format]
    assert check.failure_reason == reason
    assert check.score_drop == pytest.approx(lost / 100 / 2)
    assert check.scores["kind/accuracy"] == pytest.approx(1 - lost / 100)


def test_what_may_be_lost_is_a_sample_at_least():
    """Below one sample a test set cannot tell; 0 is taken at its word."""
    assert compute_allowed_drop(0.02, 1000) == pytest.approx(0.02)
    assert compute_allowed_drop(0.02, 10) == pytest.approx(0.1)
    assert compute_allowed_drop(0.001, 195) == pytest.approx(1 / 195)
    assert compute_allowed_drop(0, 10) == pytest.approx(0, abs=1e-8)
