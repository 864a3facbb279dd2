"""Properties of every registered export, with all combinations of its options."""

import inspect
import itertools
import typing

import numpy as np
import pytest

from tests.helpers.small_model import small
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import EXPORTS

FORMATS = {
    "keras",
    "saved_model",
    "onnx",
    "openvino",
    "openvino_float16",
    "tflite",
    "tflite_float16",
    "tflite_split",
    "tflite_dynamic",
    "tflite_int8",
    "tflite_int8_selective",
    "tflite_int16x8",
    "ai_edge_dynamic_wi8_afp32",
    "ai_edge_dynamic_wi4_afp32",
    "ai_edge_weight_only_wi8_afp32",
    "ai_edge_weight_only_wi4_afp32",
    "ai_edge_static_wi8_ai8",
}
ROUNDED = ("tflite_dynamic", "tflite_int8", "tflite_int16x8", "ai_edge")


def specs():
    """Yield the specs of all exports, with every value of options that have fixed choices."""
    for name in EXPORTS:
        hints = typing.get_type_hints(EXPORTS[name])
        keys = EXPORTS.get_signature(name).parameters
        choices = {key: (False, True) if hints[key] is bool else typing.get_args(hints[key]) for key in keys}
        assert all(choices.values()), f"say in this test what to try for the options of {name}"
        for values in itertools.product(*choices.values()):
            options = dict(zip(choices, values, strict=True))
            # Only an int8 file takes or gives integers of its own; tests/deploy/test_exports.py tests the errors.
            is_integer_only = options.get("inputs") == "int8" or options.get("outputs") in ("int8", "uint8")
            # The same holds for selective files; test_selective_quantization.py tests their inputs and outputs.
            is_selective = options.get("selective", False)
            plain = (options.get("inputs"), options.get("outputs")) == ("auto", "float32")
            if not (is_integer_only or is_selective) or (options["quantize"] == "int8" and (plain or not is_selective)):
                yield Spec(name, (), options)


@pytest.fixture(scope="module")
def model():
    """Return a small model with two heads of different tasks."""
    return small({"kind": "classify()", "marks": "tag()"})


@pytest.mark.parametrize("spec", specs(), ids=str)
def test_a_written_file_predicts_like_the_model(spec, model, tmp_path):
    """load(write(model)) predicts like the model, for one sample and for several."""
    export = EXPORTS.build(spec)
    export.write(model.servable, tmp_path / export.file_name)
    assert [path.name for path in tmp_path.iterdir()] == [export.file_name]
    predict = export.load(tmp_path / export.file_name).predict
    outputs = predict({"image": model.pixels[:5]})
    assert set(outputs) == {"kind/scores", "marks/scores"}
    for name, scores in outputs.items():
        assert scores.dtype == np.float32
        assert scores.shape == (5, 3)
        np.testing.assert_allclose(scores, model.answers[name][:5], atol=export.tolerance)
        assert np.ptp(scores, axis=0).max() > 0.1, "the input makes no difference"
        np.testing.assert_allclose(predict({"image": model.pixels[3:4]})[name][0], scores[3], atol=1e-6)


@pytest.mark.parametrize("spec", specs(), ids=str)
def test_formats_and_file_names(spec):
    """Formats and files have documented names, and float files have a smaller tolerance than quantized ones."""
    export = EXPORTS.build(spec)
    assert export.format in FORMATS
    assert export.file_name.startswith(("model", "saved_model", "openvino"))
    assert export.quantized == export.format.startswith(ROUNDED)
    assert export.tolerance <= (0.5 if export.quantized else 0.02)


@pytest.mark.parametrize("name", EXPORTS)
def test_invalid_files_are_refused(name, tmp_path):
    """A missing, empty or other file raises an error of one line with its path."""
    export = EXPORTS.build(Spec(name))
    path = tmp_path / export.file_name
    for content in (None, b"", b"PK\3\4 not much of a model"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as error:
            export.load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", EXPORTS)
def test_every_option_is_documented(name):
    """The docstring of an export describes all of its options."""
    doc = inspect.getdoc(EXPORTS[name])
    assert all(f"{option}:" in doc for option in EXPORTS.get_signature(name).parameters)
