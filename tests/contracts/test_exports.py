"""What every export promises, with every combination of its options; being registered is enough to be tested."""

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
    """Every export with every value that its options of a fixed choice can take."""
    for name in EXPORTS:
        hints = typing.get_type_hints(EXPORTS[name])
        keys = EXPORTS.get_signature(name).parameters
        choices = {key: (False, True) if hints[key] is bool else typing.get_args(hints[key]) for key in keys}
        assert all(choices.values()), f"say in this test what to try for the options of {name}"
        for values in itertools.product(*choices.values()):
            options = dict(zip(choices, values, strict=True))
            # Only an int8 file takes or gives integers of its own; `test_exports.py` sees the others refused.
            whole = options.get("inputs") == "int8" or options.get("outputs") in ("int8", "uint8")
            # So it is with layers that stay float; that they leave inputs and outputs alone, `test_selective.py` sees.
            chosen = options.get("selective", False)
            plain = (options.get("inputs"), options.get("outputs")) == ("auto", "float32")
            if not (whole or chosen) or (options["quantize"] == "int8" and (plain or not chosen)):
                yield Spec(name, (), options)


@pytest.fixture(scope="module")
def model():
    """Two heads of different tasks."""
    return small({"kind": "classify()", "marks": "tag()"})


@pytest.mark.parametrize("spec", specs(), ids=str)
def test_what_is_written_is_read_again(spec, model, tmp_path):
    """load(write(model)) answers as the model does, for one sample and for several, by the same names."""
    export = EXPORTS.build(spec)
    export.write(model.servable, tmp_path / export.file_name)
    assert [path.name for path in tmp_path.iterdir()] == [export.file_name]
    predict = export.load(tmp_path / export.file_name).predict
    found = predict({"image": model.pixels[:5]})
    assert set(found) == {"kind/scores", "marks/scores"}
    for name, scores in found.items():
        assert scores.dtype == np.float32
        assert scores.shape == (5, 3)
        np.testing.assert_allclose(scores, model.answers[name][:5], atol=export.tolerance)
        assert np.ptp(scores, axis=0).max() > 0.1, "the input makes no difference"
        np.testing.assert_allclose(predict({"image": model.pixels[3:4]})[name][0], scores[3], atol=1e-6)


@pytest.mark.parametrize("spec", specs(), ids=str)
def test_formats_and_files_have_the_names_that_users_know(spec):
    """A float file is held to a smaller tolerance than one that rounds."""
    export = EXPORTS.build(spec)
    assert export.format in FORMATS
    assert export.file_name.startswith(("model", "saved_model", "openvino"))
    assert export.quantized == export.format.startswith(ROUNDED)
    assert export.tolerance <= (0.5 if export.quantized else 0.02)


@pytest.mark.parametrize("name", EXPORTS)
def test_what_is_no_such_file_is_refused(name, tmp_path):
    """Missing, empty, and of another kind: one line that names the file."""
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
def test_every_export_says_what_it_writes(name):
    """Its page is made from its docstring, which documents every option."""
    doc = inspect.getdoc(EXPORTS[name])
    assert all(f"{option}:" in doc for option in EXPORTS.get_signature(name).parameters)
