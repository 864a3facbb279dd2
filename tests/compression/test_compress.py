"""Tests of compressed runs: smaller files, errors before training, and resumed compressions."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.compression.test_tf_keras_bridge import build_network
from tests.helpers.commands import SMALL_FLAGS, get_error, run_command, run_in_process, write_shapes
from tests.helpers.small_data import complaint
from tfx_finetune.benchmark import BenchmarkOptions, benchmark
from tfx_finetune.compression import tf_keras_bridge
from tfx_finetune.compression.fold_batch_norm import fold_batch_norm
from tfx_finetune.core import files, hardware
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.ops import litert
from tfx_finetune.ops.functional import load_keras_model
from tfx_finetune.run.plan import check
from tfx_finetune.training.weight_averaging import rank_epochs, standard_error
from tfx_finetune.types.components import COMPRESSIONS

CHAIN = "prune(sparsity=0.5), cluster(num_clusters=8), qat()"


@pytest.fixture(scope="session")
def compressed(trained_run, make_once):
    """Return the work folder of the small run with all compressions."""
    exports = "keras_file(), tflite(), tflite(quantize='float16'), tflite(quantize='int8')"

    def make(root):
        # The phases are copied from the other run, so that only the compressions are trained.
        workdir = shutil.copytree(trained_run.workdir, root / "run")
        result = run_command(
            "train", *trained_run.flags, f"--workdir={workdir}", f"--compress={CHAIN}", f"--exports={exports}"
        )
        assert result.returncode == 0, result.stderr
        assert "WARNING" not in result.stderr, result.stderr

    return make_once("compressed", make)[0] / "run"


def read_scores(workdir):
    return json.loads((workdir / "bundle" / "scores.json").read_text())


@pytest.mark.slow
def test_compressed_files_are_smaller_and_pass_verification(trained_run, compressed):
    """Half of the weights are zero, and zipped files are much smaller."""
    before, after = trained_run.workdir / "bundle", read_scores(compressed)
    for name in ("keras", "tflite", "tflite_float16", "tflite_int8"):
        assert after[name]["sparsity"] > 0.48
        assert not after[name]["failure_reason"]
    for name in ("model.tflite", "model_int8.tflite"):
        assert files.compute_compressed_size(compressed / "bundle" / name) < 0.65 * files.compute_compressed_size(
            before / name
        )
    manifest = json.loads((compressed / "bundle" / "manifest.json").read_text())
    assert manifest["compress"] == CHAIN
    assert all(manifest["verified"].values())
    page = (compressed / "report.html").read_text()
    assert " zeros</span>" in page
    assert " zeros</span>" not in (trained_run.workdir / "report.html").read_text()


@pytest.mark.slow
def test_the_last_epoch_within_one_standard_error_is_selected(compressed):
    """The validation scores of each compression include the score of the initial weights."""
    histories = [json.loads(path.read_text()) for path in (compressed / "checkpoints").glob("*-*/history.json")]
    assert sorted(history["phase"] for history in histories) == ["cluster", "prune", "qat"]
    samples = json.loads((compressed / "bundle" / "manifest.json").read_text())["data"]["val"]
    for history in histories:
        val_scores = [history["start"][0], *history["metrics"]["val_score"]]
        epoch = rank_epochs(val_scores, standard_error(max(val_scores), samples))[0]
        assert history["selection"] == (f"epoch {epoch}" if epoch else "initial weights")
        assert history["val_score"] == val_scores[epoch]


@pytest.mark.slow
def test_an_interrupted_compression_is_repeated(trained_run, compressed, tmp_path):
    """If the run is killed in its last compression, only this one is repeated, with the same int8 file as result."""
    resumed = tmp_path / "run"
    shutil.copytree(compressed, resumed)
    (last,) = (resumed / "checkpoints").glob("qat-*")
    shutil.rmtree(last)
    result = run_command("export", f"--bundle={resumed / 'bundle'}", "--exports=tflite(quantize='int8')")
    assert result.returncode == 0, result.stderr
    assert "prune  " not in result.stderr
    assert "reconstruct" not in result.stderr
    assert "qat  " in result.stderr
    first, second = (
        litert.read_kernels((w / "bundle" / "model_int8.tflite").read_bytes()) for w in (compressed, resumed)
    )
    assert all(map(np.array_equal, first, second))


@pytest.mark.slow
def test_benchmark_measures_every_file(compressed):
    """There is one JSON line per file and number of threads, in the order of the bundle."""
    result = run_command("benchmark", f"--bundle={compressed / 'bundle'}", "--repeats=3", "--batch_size=2")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    formats = list(json.loads((compressed / "bundle/manifest.json").read_text())["files"])
    threads = sorted({1, hardware.detect().threads})
    assert [(row["format"], row["threads"]) for row in rows] == [(f, n) for f in formats for n in threads]
    for row in rows:
        assert 0 < row["latency"] <= row["latency_p90"]
        assert row["bytes"] > 0
        assert row["batch_size"] == (1 if "tflite" in row["format"] else 2)
    assert "not a bundle" in complaint(benchmark, BenchmarkOptions(bundle=str(compressed)))


def test_export_needs_a_run(trained_run, tmp_path):
    """A bundle that was moved out of its work folder has no checkpoints to export."""
    shutil.copytree(trained_run.workdir / "bundle", tmp_path / "bundle")
    assert "--bundle is not in the work folder of a finished run: " in get_error(
        "export", f"--bundle={tmp_path / 'bundle'}"
    )


def test_invalid_compressions_raise_an_error(trained_run):
    """Quantization comes last, because later pruning would change the quantized weights."""
    for chain, message in {
        "qat(), prune()": r"invalid order.*prune\(\), cluster\(\), qat\(\) in this order",
        "prune(), prune(sparsity=0.7)": "--compress has an invalid order: prune, prune",
        "cluster(num_clusters=1)": "num_clusters=1",
        "quat()": "Did you mean qat",
    }.items():
        with pytest.raises(UserError, match=message):
            check(Run(data=str(trained_run.data), compress=chain))


def test_a_network_with_unsupported_layers_raises_an_error_before_training(trained_run, tmp_path):
    """The network of the user has a layer that Keras 2 lacks, and the error names the layer."""
    import keras

    inputs = keras.Input((24, 24, 3))
    x = keras.layers.GroupNormalization(2)(keras.layers.Conv2D(4, 3, strides=4)(inputs))
    keras.Model(inputs, x).save(tmp_path / "own.keras")
    flags = [flag for flag in SMALL_FLAGS if "backbone" not in flag]
    backbone = f"--backbone=keras_file(path='{tmp_path / 'own.keras'}')"
    result = run_in_process(
        "train", f"--data={trained_run.data}", backbone, *flags, "--compress=qat()", f"--workdir={tmp_path / 'run'}"
    )
    assert result.returncode == 2, result.stderr
    assert "GroupNormalization" in result.stderr.splitlines()[-1]
    assert "frozen" not in result.stderr


def test_the_float_network_gets_the_trained_weights():
    """Quantized and float network differ by rounding errors only, for all types of layers."""
    import keras
    import tf_keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2, name="first")(x)
    y = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    x = keras.layers.BatchNormalization(name="lone")(keras.layers.Add()([x, y]))
    x = keras.layers.SeparableConv2D(8, 3, activation="silu", name="separable")(x)
    outputs = keras.layers.Dense(3, name="dense")(keras.layers.GlobalAveragePooling2D()(x))
    model = fold_batch_norm(keras.Model({"image": inputs}, {"kind/logits": outputs}))
    with_names = tf_keras_bridge.to_tf_keras(model)
    tf_keras_model = tf_keras.Model(with_names.inputs, with_names.outputs)
    data = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype(np.float32)
    qat = COMPRESSIONS.build(parse_spec("qat()"))
    initial = {layer.name: layer.get_weights() for layer in tf_keras_model.layers}
    wrapped = qat.wrap(tf_keras_model, 40, [data], [])
    wrapped.compile(tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(3e-3, 160)), loss="mse")
    wrapped.fit(data, np.eye(3, dtype=np.float32)[np.arange(32) % 3], batch_size=8, epochs=40, verbose=0)
    qat.strip(wrapped, tf_keras_model)
    tf_keras_bridge.copy_weights_back(tf_keras_model, model)
    quantized = wrapped(data, training=False).numpy()
    logits = model({"image": data}, training=False)["kind/logits"].numpy()
    # A few large values may lie outside of the ranges, which are means over batches.
    assert np.abs(quantized - logits).mean() < 0.03 * np.ptp(logits)
    for name in ("first", "depthwise", "separable", "separable_depthwise", "dense"):
        assert np.abs(model.get_layer(name).get_weights()[0] - initial[name][0]).max() > 1e-3, name
    assert all(
        np.array_equal(a, b) for a, b in zip(model.get_layer("lone").get_weights(), initial["lone"], strict=True)
    )


FLOAT_OPERATIONS = {
    "efficientnet_lite0(size=64)": set(),
    "mobilenet_v3_small(weights='none', size=64)": set(),
    "efficientnet_b0(weights='none', size=64)": set(),
    "resnet50_v2(weights='none', size=64)": set(),
}
"""Operations with float arithmetic, by backbone."""


@pytest.mark.parametrize("spec", [pytest.param(spec, marks=pytest.mark.slow) for spec in FLOAT_OPERATIONS])
def test_every_operation_is_quantized(spec):
    """The TFLite file of the QAT graph has int8 arithmetic and the outputs of the graph."""
    import tf_keras
    from ai_edge_litert.interpreter import Interpreter

    model, data, pretrained = build_network(spec, half="none" in spec)
    with_names = tf_keras_bridge.to_tf_keras(fold_batch_norm(model))
    tf_keras_model = tf_keras.Model(with_names.inputs, with_names.outputs)
    wrapped = COMPRESSIONS.build(parse_spec("qat()")).wrap(tf_keras_model, 1, [data], [])
    expected = [value.numpy() for value in wrapped(data, training=False)]
    frozen = litert.freeze(lambda x: wrapped(x, training=False), [tf.TensorSpec([1, *data.shape[1:]], tf.float32)])

    def make_converter():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter

    interpreter = Interpreter(model_content=litert.convert(make_converter), num_threads=1)
    interpreter.allocate_tensors()
    types = {detail["index"]: detail["dtype"] for detail in interpreter.get_tensor_details()}
    floats = {op["op_name"] for op in interpreter._get_ops_details() if types[op["outputs"][0]] == np.float32}
    assert floats - {"DEQUANTIZE", "DELEGATE"} == FLOAT_OPERATIONS[spec]
    if pretrained:
        rows = []
        for sample in data:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample[None])
            interpreter.invoke()
            rows.append([interpreter.get_tensor(detail["index"])[0] for detail in interpreter.get_output_details()])
        # The quantization step of the last layer is a 24th of the range; integer arithmetic may be off by a few steps.
        largest = max(np.abs(value).max() for value in expected)
        for value, output in zip(expected, map(np.stack, zip(*rows, strict=True)), strict=True):
            assert np.abs(value - output).max() < 0.15 * largest


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D", "Dense"])
def test_kernels_are_quantized_per_channel_before_training(kind):
    """The rounding error of each channel is at most half a step of its largest weight divided by 127.

    After folding, the sizes of channels differ this much. With a single scale, or with the initial range -6 to 6 of
    TF-MOT, small channels would be rounded to zero.
    """
    import tf_keras

    rng, sizes = np.random.default_rng(0), np.logspace(-3, 1, 6, dtype=np.float32)
    inputs = tf_keras.Input((4,) if kind == "Dense" else (8, 8, 6 if kind == "DepthwiseConv2D" else 4))
    layer = getattr(tf_keras.layers, kind)(*{"Conv2D": (6, 3), "DepthwiseConv2D": (3,), "Dense": (6,)}[kind])
    tf_keras_model = tf_keras.Model(inputs, layer(inputs))
    kernel, bias = tf_keras_model.get_weights()
    rows = rng.normal(size=(kernel.size // 6, 6)).astype(np.float32) * sizes
    tf_keras_model.set_weights([rows.reshape(kernel.shape), bias])
    samples = rng.normal(size=(8, *inputs.shape[1:])).astype(np.float32)
    wrapped = COMPRESSIONS.build(parse_spec("qat()")).wrap(tf_keras_model, 1, [samples], [])
    ((_, quantizer, ranges),) = wrapped.layers[-1]._weight_vars
    quantized = np.reshape(quantizer(rows.reshape(kernel.shape), training=False, weights=ranges), rows.shape)
    errors = np.abs(quantized - rows).max(0) / np.abs(rows).max(0)
    assert (errors > 1e-4).all()
    assert (errors < 0.5001 / 127).all()


@pytest.mark.slow
def test_qat_with_per_language_heads(tmp_path):
    """Batches without a label for a head do not train the head, and cause no division by zero."""
    rows = ["image,label,language"]
    for number, path in enumerate(sorted(write_shapes(tmp_path / "shapes", 16).rglob("*.*"))):
        rows.append(f"{path},{path.parent.name},{('en', 'en', 'fi')[number // 2 % 3]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    flags = (
        "--nocache.enabled",
        "--backbone=convnet(size=16, channels=3, widths=(8,))",
        "--augment=",
        "--batch_size=2",
    )
    heads = (
        "--heads=classify(adapter_dim=4)",
        "--heads_by=language",
        "--compress=qat(epochs=1)",
        "--verify.max_drop=1",
    )
    training = ("--frozen.epochs=1", "--finetune.epochs=0", "--exports=keras_file(), tflite(quantize='int8')")
    result = run_in_process(
        "train", f"--data={tmp_path / 't.csv'}", *flags, *heads, *training, f"--workdir={tmp_path / 'run'}"
    )
    assert result.returncode == 0, result.stderr
    assert {"en/accuracy", "fi/accuracy", "shared/accuracy"} <= set(read_scores(tmp_path / "run")["test"])
    assert np.isfinite(read_scores(tmp_path / "run")["tflite_int8"]["score"])


@pytest.mark.slow
def test_bottleneck_adapters_are_compressed(tmp_path):
    """Layers that an adapter adds to the network are compressed like other layers, with their activations."""
    adapter, training = (
        "--finetune.adapter=bottleneck(dim=8)",
        ("--finetune.epochs=1", "--nocache.enabled", "--verify.max_drop=1"),
    )
    flags = ("--compress=prune(epochs=1), qat(epochs=1)", "--exports=keras_file(), tflite(quantize='int8')")
    folder = f"--data={write_shapes(tmp_path / 'shapes')}"
    result = run_in_process("train", folder, *SMALL_FLAGS, adapter, *training, *flags, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    model = load_keras_model(tmp_path / "run/bundle/model.keras")
    kernels = [layer.kernel for layer in model.layers if layer.name.startswith("adapter") and layer.weights]
    assert len(kernels) == 4 and all(0 < np.mean(kernel == 0) < 0.9 for kernel in kernels)
    assert read_scores(tmp_path / "run")["tflite_int8"]["sparsity"] >= 0.5
