"""OpenVINO models in OpenVINO alone, and errors of invalid files and unsupported models."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.helpers.small_model import NAMES, small
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.deploy.formats import openvino_file
from tfx_finetune.types.components import EXPORTS
from tfx_finetune.types.deployment import Servable


@pytest.fixture(scope="module")
def model():
    """Return a small model with two heads of different tasks."""
    return small({"kind": "classify()", "marks": "tag()"})


def test_plain_openvino_runs_the_model(model, tmp_path):
    """OpenVINO alone runs the model with any batch size and reads labels and metadata from it."""
    export = EXPORTS.build(parse_spec("openvino()"))
    export.write(model.servable, tmp_path / export.file_name)
    assert sys.modules["openvino_telemetry"] is None, "nothing is reported of what a person does here"
    np.save(tmp_path / "pixels.npy", model.pixels[:3].astype(np.float32))
    code = (
        "import json, sys\n"
        "sys.modules |= {'tfx_finetune': None, 'openvino_telemetry': None}\n"
        "import numpy as np, openvino as ov\n"
        "model = ov.Core().read_model(sys.argv[1])\n"
        "run = ov.Core().compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})\n"
        "pixels = np.load(sys.argv[2])\n"
        "assert run({'image': pixels[:1]})['kind/scores'].shape == (1, 3)\n"
        "outputs = run({'image': pixels})\n"
        "about = {key: model.get_rt_info(['tfx_finetune', key]).astype(str) for key in ('labels', 'name', 'license')}\n"
        "names = [output.get_any_name() for output in model.outputs]\n"
        "scores = {name: outputs[name].tolist() for name in names}\n"
        "print(json.dumps([scores, about, model.input('image').get_partial_shape().to_string()]))"
    )
    arguments = (tmp_path / export.file_name / "model.xml", tmp_path / "pixels.npy")
    process = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    scores, about, shape = json.loads(process.stdout)
    assert shape == "[?,16,16,3]"
    assert set(scores) == {"kind/scores", "marks/scores"}
    for name, values in scores.items():
        np.testing.assert_allclose(values, model.answers[name][:3], atol=1e-5)
    assert json.loads(about["labels"]) == {"kind": list(NAMES), "marks": list(NAMES)}
    assert (about["name"], about["license"]) == ("fält", "Apache-2.0")


@pytest.mark.parametrize(("name", "keep"), [("model.xml", 0.5), ("model.bin", 0.5), ("model.bin", 0)])
def test_a_truncated_file_is_refused(name, keep, model, tmp_path):
    """The error of a truncated or empty file has the path of the model."""
    export = EXPORTS.build(parse_spec("openvino()"))
    export.write(model.servable, tmp_path / export.file_name)
    path = tmp_path / export.file_name / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match="The OpenVINO model is not readable") as error:
        export.load(tmp_path / export.file_name)
    assert str(tmp_path / export.file_name) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_operator_that_openvino_lacks_is_an_error(model, tmp_path):
    """The error names the operator, and no file is left."""
    inputs = keras.Input((16, 16, 3), name="image")
    scores = keras.ops.erfinv(keras.ops.mean(inputs, axis=(1, 2)) / 256)
    servable = Servable(keras.Model({"image": inputs}, {"kind/scores": scores}), model.servable.modalities, {}, {})
    with pytest.raises(UserError, match=r"OpenVINO lacks \(Erfinv\)\. Leave out this export"):
        EXPORTS.build(parse_spec("openvino()")).write(servable, tmp_path / "openvino")
    assert not list(tmp_path.iterdir())


def test_float16_is_half_the_size(model, tmp_path):
    """The weights of a float16 model have half the size."""
    inputs = keras.Input((16, 16, 3), name="image")
    scores = keras.layers.Dense(64)(keras.layers.Flatten()(inputs))
    servable = Servable(keras.Model({"image": inputs}, {"kind/scores": scores}), model.servable.modalities, {}, {})
    sizes = []
    for precision in ("float32", "float16"):
        export = openvino_file.openvino(precision)
        export.write(servable, tmp_path / export.file_name)
        sizes.append((tmp_path / export.file_name / "model.bin").stat().st_size)
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.01)
