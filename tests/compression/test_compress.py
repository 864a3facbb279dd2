"""Compression as a user runs it: smaller files that keep their promises, refusals before training, going on."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.compression.test_tf_keras_bridge import network
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
    """The small run, compressed in every way."""
    exports = "keras_file(), tflite(), tflite(quantize='float16'), tflite(quantize='int8')"

    def make(root):
        # The phases are those of the other run: only the compressions are trained.
        workdir = shutil.copytree(trained_run.workdir, root / "run")
        found = run_command(
            "train", *trained_run.flags, f"--workdir={workdir}", f"--compress={CHAIN}", f"--exports={exports}"
        )
        assert found.returncode == 0, found.stderr
        assert "WARNING" not in found.stderr, found.stderr

    return make_once("compressed", make)[0] / "run"


def scores(workdir):
    return json.loads((workdir / "bundle" / "scores.json").read_text())


@pytest.mark.slow
def test_files_are_smaller_and_as_good(trained_run, compressed):
    """Every file is verified; half its weights are zero, and zipped it is far smaller."""
    before, after = trained_run.workdir / "bundle", scores(compressed)
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
def test_the_last_epoch_that_is_not_clearly_worse_is_kept(compressed):
    """By the validation scores of each compression, its start among them."""
    histories = [json.loads(path.read_text()) for path in (compressed / "checkpoints").glob("*-*/history.json")]
    assert sorted(one["phase"] for one in histories) == ["cluster", "prune", "qat"]
    samples = json.loads((compressed / "bundle" / "manifest.json").read_text())["data"]["val"]
    for history in histories:
        found = [history["start"][0], *history["metrics"]["val_score"]]
        epoch = rank_epochs(found, standard_error(max(found), samples))[0]
        assert history["kept"] == (f"epoch {epoch}" if epoch else "initial weights")
        assert history["result"] == found[epoch]


@pytest.mark.slow
def test_going_on_gives_the_same(trained_run, compressed, tmp_path):
    """A run that was killed in its last compression repeats that one alone, to the same int8 file."""
    again = tmp_path / "run"
    shutil.copytree(compressed, again)
    (last,) = (again / "checkpoints").glob("qat-*")
    shutil.rmtree(last)
    found = run_command("export", f"--bundle={again / 'bundle'}", "--exports=tflite(quantize='int8')")
    assert found.returncode == 0, found.stderr
    assert "prune  " not in found.stderr
    assert "reconstruct" not in found.stderr
    assert "qat  " in found.stderr
    first, second = (
        litert.read_kernels((w / "bundle" / "model_int8.tflite").read_bytes()) for w in (compressed, again)
    )
    assert all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.slow
def test_every_file_is_measured(compressed):
    """A JSON line a file and number of threads, in the bundle's order; the bundle must be one."""
    found = run_command("benchmark", f"--bundle={compressed / 'bundle'}", "--repeats=3", "--batch_size=2")
    assert found.returncode == 0, found.stderr
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    formats = list(json.loads((compressed / "bundle/manifest.json").read_text())["files"])
    threads = sorted({1, hardware.detect().threads})
    assert [(row["format"], row["threads"]) for row in rows] == [(f, n) for f in formats for n in threads]
    for row in rows:
        assert 0 < row["latency"] <= row["latency_p90"]
        assert row["bytes"] > 0
        assert row["batch_size"] == (1 if "tflite" in row["format"] else 2)
    assert "not a bundle" in complaint(benchmark, BenchmarkOptions(bundle=str(compressed)))


def test_export_needs_a_run(trained_run, tmp_path):
    """A bundle that was moved away from its run has no weights to go on from."""
    shutil.copytree(trained_run.workdir / "bundle", tmp_path / "bundle")
    assert "no finished run" in get_error("export", f"--bundle={tmp_path / 'bundle'}")


def test_the_wrong_order_is_refused(trained_run):
    """Rounding comes last: what is pruned behind it would no longer be rounded right."""
    for chain, said in {
        "qat(), prune()": r"invalid order.*prune\(\), cluster\(\), qat\(\) in this order",
        "prune(), prune(sparsity=0.7)": "order",
        "cluster(num_clusters=1)": "clusters",
        "quat()": "did you mean qat",
    }.items():
        with pytest.raises(UserError, match=said):
            check(Run(data=str(trained_run.data), compress=chain))


def test_layers_without_a_twin_are_named_before_training(trained_run, tmp_path):
    """A network of the user's own with a layer that Keras 2 lacks."""
    import keras

    inputs = keras.Input((24, 24, 3))
    x = keras.layers.GroupNormalization(2)(keras.layers.Conv2D(4, 3, strides=4)(inputs))
    keras.Model(inputs, x).save(tmp_path / "own.keras")
    flags = [flag for flag in SMALL_FLAGS if "backbone" not in flag]
    backbone = f"--backbone=keras_file(path='{tmp_path / 'own.keras'}')"
    found = run_in_process(
        "train", f"--data={trained_run.data}", backbone, *flags, "--compress=qat()", f"--workdir={tmp_path / 'run'}"
    )
    assert found.returncode == 2, found.stderr
    assert "GroupNormalization" in found.stderr.splitlines()[-1]
    assert "frozen" not in found.stderr


def test_the_float_network_has_what_was_trained():
    """Rounded network and float one differ by rounding alone, whatever kinds of layers were trained."""
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
    structured = tf_keras_bridge.to_tf_keras(model)
    twin = tf_keras.Model(structured.inputs, structured.outputs)
    data = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype(np.float32)
    qat, start = COMPRESSIONS.build(parse_spec("qat()")), {layer.name: layer.get_weights() for layer in twin.layers}
    wrapped = qat.wrap(twin, 40, [data], [])
    wrapped.compile(tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(3e-3, 160)), loss="mse")
    wrapped.fit(data, np.eye(3, dtype=np.float32)[np.arange(32) % 3], batch_size=8, epochs=40, verbose=0)
    qat.strip(wrapped, twin)
    tf_keras_bridge.copy_weights_back(twin, model)
    ours, theirs = wrapped(data, training=False).numpy(), model({"image": data}, training=False)["kind/logits"].numpy()
    # A few largest values may lie outside of the ranges that batches have in the mean.
    assert np.abs(ours - theirs).mean() < 0.03 * np.ptp(theirs)
    for name in ("first", "depthwise", "separable", "separable_depthwise", "dense"):
        assert np.abs(model.get_layer(name).get_weights()[0] - start[name][0]).max() > 1e-3, name
    assert all(np.array_equal(a, b) for a, b in zip(model.get_layer("lone").get_weights(), start["lone"], strict=True))


QUANTIZED = {
    "efficientnet_lite0(size=64)": set(),
    "mobilenet_v3_small(weights='none', size=64)": set(),
    "efficientnet_b0(weights='none', size=64)": set(),
    "resnet50_v2(weights='none', size=64)": set(),
}
"""Operations that stay float."""


@pytest.mark.parametrize("spec", [pytest.param(spec, marks=pytest.mark.slow) for spec in QUANTIZED])
def test_every_operation_is_rounded(spec):
    """The graph of quantization-aware training becomes a file of int8 arithmetic that gives what the graph gives."""
    import tf_keras
    from ai_edge_litert.interpreter import Interpreter

    model, data, pretrained = network(spec, half="none" in spec)
    structured = tf_keras_bridge.to_tf_keras(fold_batch_norm(model))
    twin = tf_keras.Model(structured.inputs, structured.outputs)
    wrapped = COMPRESSIONS.build(parse_spec("qat()")).wrap(twin, 1, [data], [])
    ours = [value.numpy() for value in wrapped(data, training=False)]
    frozen = litert.freeze(lambda x: wrapped(x, training=False), [tf.TensorSpec([1, *data.shape[1:]], tf.float32)])

    def converter():
        made = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        made.optimizations = [tf.lite.Optimize.DEFAULT]
        return made

    reader = Interpreter(model_content=litert.convert(converter), num_threads=1)
    reader.allocate_tensors()
    types = {detail["index"]: detail["dtype"] for detail in reader.get_tensor_details()}
    floats = {op["op_name"] for op in reader._get_ops_details() if types[op["outputs"][0]] == np.float32}
    assert floats - {"DEQUANTIZE", "DELEGATE"} == QUANTIZED[spec]
    if pretrained:
        theirs = []
        for one in data:
            reader.set_tensor(reader.get_input_details()[0]["index"], one[None])
            reader.invoke()
            theirs.append([reader.get_tensor(detail["index"])[0] for detail in reader.get_output_details()])
        # The last layer's step is a 24th of the spread; integer arithmetic may be a few steps off.
        spread = max(np.abs(value).max() for value in ours)
        for value, other in zip(ours, map(np.stack, zip(*theirs, strict=True)), strict=True):
            assert np.abs(value - other).max() < 0.15 * spread


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D", "Dense"])
def test_rounding_begins_where_training_ended(kind):
    """Before a step is trained, each channel of a kernel is within half a step of 127 of its own largest weight.

    Folded normalization leaves channels of sizes as far apart as these: one scale for all would round the small ones
    away, and the range of -6 to 6 that TF-MOT begins with, too.
    """
    import tf_keras

    rng, sizes = np.random.default_rng(0), np.logspace(-3, 1, 6, dtype=np.float32)
    inputs = tf_keras.Input((4,) if kind == "Dense" else (8, 8, 6 if kind == "DepthwiseConv2D" else 4))
    layer = getattr(tf_keras.layers, kind)(*{"Conv2D": (6, 3), "DepthwiseConv2D": (3,), "Dense": (6,)}[kind])
    twin = tf_keras.Model(inputs, layer(inputs))
    kernel, bias = twin.get_weights()
    rows = rng.normal(size=(kernel.size // 6, 6)).astype(np.float32) * sizes
    twin.set_weights([rows.reshape(kernel.shape), bias])
    samples = rng.normal(size=(8, *inputs.shape[1:])).astype(np.float32)
    wrapped = COMPRESSIONS.build(parse_spec("qat()")).wrap(twin, 1, [samples], [])
    ((_, quantizer, ranges),) = wrapped.layers[-1]._weight_vars
    rounded = np.reshape(quantizer(rows.reshape(kernel.shape), training=False, weights=ranges), rows.shape)
    apart = np.abs(rounded - rows).max(0) / np.abs(rows).max(0)
    assert (apart > 1e-4).all()
    assert (apart < 0.5001 / 127).all()


@pytest.mark.slow
def test_heads_by_language(tmp_path):
    """Of which many a batch asks none: it teaches them nothing, and is no division by zero."""
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
    spent = ("--frozen.epochs=1", "--finetune.epochs=0", "--exports=keras_file(), tflite(quantize='int8')")
    done = run_in_process(
        "train", f"--data={tmp_path / 't.csv'}", *flags, *heads, *spent, f"--workdir={tmp_path / 'run'}"
    )
    assert done.returncode == 0, done.stderr
    assert {"en/accuracy", "fi/accuracy", "shared/accuracy"} <= set(scores(tmp_path / "run")["test"])
    assert np.isfinite(scores(tmp_path / "run")["tflite_int8"]["score"])


@pytest.mark.slow
def test_behind_bottlenecks(tmp_path):
    """Layers that an adapter leaves in the network are compressed as any other, an activation inside of them too."""
    adapter, spent = (
        "--finetune.adapter=bottleneck(dim=8)",
        ("--finetune.epochs=1", "--nocache.enabled", "--verify.max_drop=1"),
    )
    flags = ("--compress=prune(epochs=1), qat(epochs=1)", "--exports=keras_file(), tflite(quantize='int8')")
    folder = f"--data={write_shapes(tmp_path / 'shapes')}"
    done = run_in_process("train", folder, *SMALL_FLAGS, adapter, *spent, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    model = load_keras_model(tmp_path / "run/bundle/model.keras")
    kernels = [layer.kernel for layer in model.layers if layer.name.startswith("adapter") and layer.weights]
    assert len(kernels) == 4 and all(0 < np.mean(kernel == 0) < 0.9 for kernel in kernels)
    assert scores(tmp_path / "run")["tflite_int8"]["sparsity"] >= 0.5
