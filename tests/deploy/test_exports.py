"""Exported files in other programs: inputs, outputs, and errors of unsupported models."""

import dataclasses
import json
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from sklearn.linear_model import LogisticRegression

from tests.compression.test_tf_keras_bridge import build_network as bridged
from tests.helpers.assets import fetch_asset
from tests.helpers.small_model import NAMES, small
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.deploy.formats import tflite_metadata
from tfx_finetune.evaluation.scores import evaluate, predict_batches
from tfx_finetune.types.components import BACKBONES, EXPORTS, MODALITIES
from tfx_finetune.types.deployment import Servable

EVERY = (
    *("keras_file()", "saved_model()", "tflite()", "tflite(quantize='float16')"),
    *("tflite(quantize='dynamic')", "tflite(quantize='int8')", "tflite(quantize='int16x8')", "openvino()"),
)
OPENVINO = ("openvino()", "openvino(precision='float16')")
PIXELS = "import sys, numpy as np; pixels = np.load(sys.argv[2])\n"


@pytest.fixture(scope="module")
def model():
    """Return a small model with two heads of different tasks."""
    return small({"kind": "classify()", "marks": "tag()"})


def write(spec, model, folder):
    export = EXPORTS.build(parse_spec(spec))
    export.write(model.servable, folder / export.file_name)
    return folder / export.file_name


def elsewhere(code, *arguments):
    """Run code in a process that cannot import this package, and return the JSON that it prints."""
    code = "import sys; sys.modules['tfx_finetune'] = None\n" + code
    process = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


# ---- SavedModel and Keras file


def test_plain_tensorflow_serves_the_saved_model(model, tmp_path):
    """TensorFlow alone runs both signatures, for raw and for prepared images, with any batch size."""
    path = write("saved_model()", model, tmp_path)
    np.save(tmp_path / "pixels.npy", model.pixels[:3].astype(np.float32))
    for row, content in enumerate(model.raw[:3]):
        (tmp_path / f"{row}.png").write_bytes(content)
    code = (
        "import json, pathlib, tensorflow as tf\n"
        "signatures = tf.saved_model.load(sys.argv[1]).signatures\n"
        "raw = [path.read_bytes() for path in sorted(pathlib.Path(sys.argv[2]).parent.glob('*.png'))]\n"
        "served = signatures['serving_default'](image=tf.constant(raw))\n"
        "run = signatures['tensor'](image=tf.constant(pixels))\n"
        "assert signatures['serving_default'](image=tf.constant(raw[:1]))['kind/scores'].shape == (1, 3)\n"
        "def plain(v): return v.decode() if isinstance(v, bytes) else [*map(plain, v)] if isinstance(v, list) else v\n"
        "print(json.dumps([{k: plain(v.numpy().tolist()) for k, v in outputs.items()} for outputs in (served, run)]))"
    )
    served, run = elsewhere(PIXELS + code, path, tmp_path / "pixels.npy")
    assert set(run) == {"kind/scores", "marks/scores"}
    assert set(served) == {f"{head}/{name}" for head in ("kind", "marks") for name in ("scores", "labels", "best")}
    for head in ("kind", "marks"):
        scores = model.answers[f"{head}/scores"][:3]
        np.testing.assert_allclose(served[f"{head}/scores"], scores, atol=1e-5)
        np.testing.assert_allclose(run[f"{head}/scores"], scores, atol=1e-5)
        assert served[f"{head}/labels"] == [list(NAMES)] * 3
        assert served[f"{head}/best"] == [NAMES[i] for i in scores.argmax(-1)]


def test_plain_keras_loads_the_keras_file(model, tmp_path):
    """Keras alone loads the file in safe mode, with trainable weights."""
    path = write("keras_file()", model, tmp_path)
    np.save(tmp_path / "pixels.npy", model.pixels[:4])
    code = (
        "import json, keras\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "print(json.dumps([sum(w.shape.num_elements() for w in model.trainable_weights),"
        " {k: v.tolist() for k, v in model.predict({'image': pixels}, verbose=0).items()}]))"
    )
    count, outputs = elsewhere(PIXELS + code, path, tmp_path / "pixels.npy")
    assert count == sum(w.shape.num_elements() for w in model.servable.model.trainable_weights) > 0
    for name, scores in outputs.items():
        np.testing.assert_allclose(scores, model.answers[name][:4], atol=1e-5)


def test_a_new_process_reads_a_keras_file_with_custom_layers(tmp_path):
    """Opening the file registers the custom layers of this package."""
    backbone = BACKBONES["bag_of_embeddings"](size=8, dim=4, buckets=50)
    scores = keras.layers.Dense(2, "softmax")(backbone.features.pooled)
    model = keras.Model({"text": backbone.inputs}, {"kind/scores": scores})
    model.save(tmp_path / "model.keras")
    code = (
        "import sys, pathlib, numpy as np; from tfx_finetune.types.components import EXPORTS\n"
        "reader = EXPORTS['keras_file']().load(pathlib.Path(sys.argv[1]))\n"
        "print(reader.predict({'text': np.full((1, 8), 9, np.int32)})['kind/scores'].tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.keras")]
    stdout = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = model.predict({"text": np.full((1, 8), 9, np.int32)}, verbose=0)["kind/scores"]
    np.testing.assert_allclose(json.loads(stdout.splitlines()[-1]), expected, atol=1e-6)


def test_a_keras_file_that_would_run_code_is_refused(tmp_path):
    """A Lambda layer contains Python code."""
    inputs = keras.Input((2,), name="image")
    outputs = {"kind/scores": keras.layers.Lambda(lambda x: x + 1)(inputs)}
    keras.Model({"image": inputs}, outputs).save(tmp_path / "model.keras")
    with pytest.raises(UserError, match="The file is not a readable Keras file"):
        EXPORTS.build(parse_spec("keras_file()")).load(tmp_path / "model.keras")


# ---- TFLite


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ("", np.float32),
        ("inputs='uint8'", np.uint8),
        ("quantize='float16'", np.float32),
        ("quantize='float16', inputs='uint8'", np.uint8),
        ("quantize='dynamic'", np.float32),
        ("quantize='int8'", np.uint8),
        ("quantize='int8', inputs='float32'", np.float32),
        ("quantize='int16x8'", np.float32),
        ("quantize='int16x8', inputs='uint8'", np.uint8),
    ],
)
def test_tflite_input_and_output_types(options, dtype, model, tmp_path):
    """The input has the requested dtype, and a byte is the value of a pixel."""
    path = write(f"tflite({options})", model, tmp_path)
    interpreter = Interpreter(str(path))
    assert set(interpreter.get_signature_list()) == {"serving_default"}
    runner = interpreter.get_signature_runner()
    ((name, detail),) = runner.get_input_details().items()
    assert name == "image"
    assert detail["dtype"] == dtype
    assert detail["shape"].tolist() == [1, 16, 16, 3]
    eight_bits = "quantize='int8'" in options
    if dtype == np.uint8 and eight_bits:
        scale, zero = detail["quantization"]
        assert zero == 0
        assert scale == pytest.approx(1.0)
    results = runner.get_output_details()
    assert set(results) == {"kind/scores", "marks/scores"}
    assert all(detail["dtype"] == np.float32 for detail in results.values())
    for pixels, expected in zip(model.pixels[:10], model.answers["kind/scores"], strict=False):
        scores = runner(image=pixels[None].astype(dtype))["kind/scores"]
        np.testing.assert_allclose(scores[0], expected, atol=0.15 if eight_bits else 0.02)


def constant_dtypes(path):
    """Return the dtypes of the constants with two or more dimensions in a TFLite file."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return {detail["dtype"].__name__ for detail in interpreter.get_tensor_details() if len(detail["shape"]) >= 2}


def test_quantized_files_have_the_expected_size(tmp_path):
    """float16 halves the file, and 8-bit kinds quarter it; an int8 file has no float kernels."""
    model = small({"kind": "classify()"})
    # Large enough for the weights to outweigh the rest of the file.
    inputs = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Conv2D(64, 3, activation="relu")(inputs)
    x = keras.layers.Conv2D(128, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    scores = keras.layers.Dense(3, activation="softmax")(x)
    wide = keras.Model({"image": inputs}, {"kind/scores": scores})
    model = model._replace(servable=dataclasses.replace(model.servable, model=wide, labels={}))
    kinds = ("none", "float16", "dynamic", "int8", "int16x8")
    paths = [write(f"tflite(quantize='{kind}')", model, tmp_path) for kind in kinds]
    sizes = [path.stat().st_size for path in paths]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    assert 0.2 < sizes[2] / sizes[0] < 0.35
    assert 0.2 < sizes[3] / sizes[0] < 0.35
    assert 0.2 < sizes[4] / sizes[0] < 0.35
    assert "float16" in constant_dtypes(paths[1])
    assert "int8" in constant_dtypes(paths[2])
    assert {"int8", "int16"} <= constant_dtypes(paths[4])
    # Only what goes out is float32.
    interpreter = Interpreter(str(paths[3]))
    interpreter.allocate_tensors()
    floats = [d["name"] for d in interpreter.get_tensor_details() if d["dtype"] == np.float32 and len(d["shape"]) > 1]
    assert len(floats) == 1


@pytest.mark.parametrize("spec", ["tflite(inputs='int8')", "tflite(quantize='dynamic', outputs='uint8')"])
def test_integer_inputs_and_outputs_need_an_int8_file(spec):
    """A float file has no scale for integer inputs and outputs."""
    with pytest.raises(UserError, match="quantize='int8'"):
        EXPORTS.build(parse_spec(spec))


def test_an_int8_file_with_integer_inputs_and_outputs(model, tmp_path):
    """The input is pixels minus 128, and reading the file converts int8 scores to real values."""
    export = EXPORTS.build(parse_spec("tflite(quantize='int8', inputs='int8', outputs='int8')"))
    export.write(model.servable, tmp_path / export.file_name)
    reader = Interpreter(model_path=str(tmp_path / export.file_name))
    assert {detail["dtype"] for detail in reader.get_input_details() + reader.get_output_details()} == {np.int8}
    assert reader.get_input_details()[0]["quantization"] == (1.0, -128)
    outputs = export.load(tmp_path / export.file_name).predict({"image": model.pixels[:8]})
    for name, scores in outputs.items():
        assert np.abs(scores - model.answers[name][:8]).max() < 0.1
        assert np.allclose(scores * 256, np.round(scores * 256)), "softmax has 256 steps"


def test_int8_calibration_includes_all_pixel_values(model, tmp_path):
    """A file that is calibrated on dark images has an input scale of 1."""
    dark = {"image": np.full((3, 16, 16, 3), 7, np.uint8)}
    servable = model.servable
    dim = dataclasses.replace(servable, representative_dataset=dark)
    path = write("tflite(quantize='int8')", model._replace(servable=dim), tmp_path)
    ((_, detail),) = Interpreter(str(path)).get_signature_runner().get_input_details().items()
    assert detail["quantization"] == (pytest.approx(1.0), 0)


def test_changed_weights_are_exported(tmp_path):
    """The cached graph is not used after the weights have changed."""
    model = small({"kind": "classify()"})
    write("tflite()", model, tmp_path)
    layer = next(layer for layer in model.servable.model.layers if isinstance(layer, keras.layers.Dense))
    layer.set_weights([-w for w in layer.get_weights()])
    expected = model.servable.model({"image": model.pixels}, training=False)["kind/scores"].numpy()
    assert np.abs(expected - model.answers["kind/scores"]).max() > 0.5
    for spec in ("tflite(quantize='float16')", "tflite()"):
        path = write(spec, model, tmp_path)
        scores = EXPORTS.build(parse_spec(spec)).load(path).predict({"image": model.pixels})["kind/scores"]
        np.testing.assert_allclose(scores, expected, atol=0.02)


@pytest.mark.parametrize("spec", [*EVERY, "onnx()"])
def test_activations_are_supported(spec, model, tmp_path):
    """All formats support common activations, such as swish with its custom gradient."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((16, 16, 3), name="image")
    for kind in ("swish", "gelu", "hard_swish", "relu6", "elu", "tanh"):
        x = keras.layers.Conv2D(4, 3, padding="same", activation=kind)(x)
    scores = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(x))
    network = keras.Model({"image": inputs}, {"kind/scores": scores})
    served = model.servable
    servable = dataclasses.replace(served, model=network, labels={"kind": NAMES})
    path = write(spec, model._replace(servable=servable), tmp_path)
    # Called only now: a model that `export` has read from a bundle was not called either.
    expected = network({"image": model.pixels[:5]})["kind/scores"]
    export = EXPORTS.build(parse_spec(spec))
    exported_scores = export.load(path).predict({"image": model.pixels[:5]})["kind/scores"]
    np.testing.assert_allclose(exported_scores, expected, atol=0.2 if export.quantized else export.tolerance)


@pytest.mark.parametrize("spec", ["tflite()", "tflite(quantize='int8')"])
def test_an_operator_that_tflite_lacks_is_an_error(spec, model, tmp_path):
    """The error names the operator, and no file is left."""
    inputs = keras.Input((16, 16, 3), name="image")
    scores = keras.layers.Dense(3)(keras.ops.tan(inputs)[:, 0, 0])  # with the Flex delegate it would be there
    network = keras.Model({"image": inputs}, {"kind/scores": scores})
    odd = model._replace(servable=dataclasses.replace(model.servable, model=network, labels={}))
    with pytest.raises(
        UserError, match=r"cannot represent this model .*TFLite lacks \(Tan\)\. Leave out this export"
    ) as error:
        write(spec, odd, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_convnext_as_onnx(tmp_path):
    """ONNX supports the depthwise convolutions, GELU and LayerNormalization of ConvNeXt."""
    network, pixels, _ = bridged("convnext_tiny(weights='none', size=32)", half=True)
    expected, shapes = network({"image": pixels}, training=False), {"image": (32, 32, 3)}
    export = EXPORTS.build(parse_spec("onnx()"))
    export.write(Servable(network, {}, shapes, {}, {}), tmp_path / export.file_name)
    for name, scores in export.load(tmp_path / export.file_name).predict({"image": pixels}).items():
        np.testing.assert_allclose(scores, expected[name], atol=1e-4 * np.abs(expected[name]).max())


# ---- AI Edge Quantizer


def test_ai_edge_recipes_print_nothing(model, tmp_path, capfd):
    """Weights of four bits are smaller than of eight, and calibration prints nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        recipes = ("weight_only_wi8_afp32", "weight_only_wi4_afp32", "static_wi8_ai8")
        paths = [write(f"ai_edge(recipe='{recipe}')", model, tmp_path) for recipe in recipes]
    assert paths[1].stat().st_size < paths[0].stat().st_size
    output, errors = capfd.readouterr()
    assert output == ""
    assert [line for line in errors.splitlines() if not line.startswith("I0000 ")] == []
    # Calibrated on dark and bright pictures alike: the range of each of them counts, not their mean.
    predict = EXPORTS.build(parse_spec("ai_edge(recipe='static_wi8_ai8')")).load(paths[2]).predict
    for name, scores in predict({"image": model.pixels}).items():
        assert np.abs(scores - model.answers[name]).max() < 0.2
    assert "labels" in tflite_metadata.read_metadata(paths[1].read_bytes())


# ---- every format


def test_every_format_has_the_scores_of_the_model_and_prints_nothing(model, tmp_path, capfd):
    """Evaluation of each format has nearly the scores of the model, without output on the terminal."""
    parts = [slice(start, start + 16) for start in range(0, 40, 16)]
    batches = [
        ({"image": model.pixels[part]}, {head: target[part] for head, target in model.targets.items()})
        for part in parts
    ]
    for spec in EVERY:
        export = EXPORTS.build(parse_spec(spec))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DeprecationWarning)  # Python shows none of these.
            targets, outputs = predict_batches(export.load(write(spec, model, tmp_path)).predict, batches)
        assert len(outputs["kind/scores"]) == 40
        scores = evaluate(model.tasks, targets, outputs)
        least = 0.85 if export.quantized else 0.97
        assert least <= scores["kind/accuracy"] <= 1
        assert least <= scores["marks/mean_average_precision"] <= 1 + 1e-9
    output, errors = capfd.readouterr()
    assert output == ""
    assert [line for line in errors.splitlines() if not line.startswith("I0000 ")] == []


@pytest.mark.slow
def test_a_real_network(tmp_path):
    """EfficientNet-Lite0 with a trained head on images of three classes has correct scores in other formats."""
    root = fetch_asset("tux-stamps")
    files = [path for name in ("animals", "food", "town") for path in sorted((root / name).rglob("*.png"))[::4][:12]]
    kinds = np.arange(3).repeat(12)
    keras.utils.set_random_seed(0)
    backbone = BACKBONES.build(parse_spec("efficientnet_lite0(size=96)"))
    modality = MODALITIES.build(parse_spec("image"), backbone.pretrained_cfg)
    pixels = np.stack([modality.prepare(modality.decode(tf.constant(path.read_bytes()))) for path in files])
    features = keras.Model(backbone.inputs, backbone.features.pooled)(pixels, training=False).numpy()
    fitted = LogisticRegression(C=0.1, max_iter=1000).fit(features[::2], kinds[::2])
    dense = keras.layers.Dense(3, activation="softmax")
    network = keras.Model({"image": backbone.inputs}, {"kind/scores": dense(backbone.features.pooled)})
    dense.set_weights([fitted.coef_.T, fitted.intercept_])
    expected = network({"image": pixels}, training=False)["kind/scores"].numpy()
    assert (expected.argmax(-1) == kinds)[1::2].mean() > 0.6
    assert (expected.max(-1) < 0.9).sum() >= 5, "all are sure"
    servable = Servable(network, {"image": modality}, {"kind": NAMES}, {"image": pixels[::4]})
    for spec in (*("tflite(quantize='dynamic')", "tflite(quantize='int16x8')"), *OPENVINO):
        export = EXPORTS.build(parse_spec(spec))
        export.write(servable, tmp_path / export.file_name)
        exported_scores = export.load(tmp_path / export.file_name).predict({"image": pixels})["kind/scores"]
        difference = np.abs(exported_scores - expected).max()
        assert difference <= (0.15 if export.quantized else export.tolerance), spec
        assert (difference > 1e-4) == (export.tolerance > 1e-4), spec
