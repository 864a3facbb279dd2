"""Selective int8 quantization: a minimal set of layers stays float."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from tests.helpers.commands import run_command
from tests.helpers.small_data import class_folder
from tests.helpers.small_model import small, write_bundle
from tfx_finetune.core.config import Run, SplitOptions, VerifyOptions
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.deploy.formats.selective_quantization import compute_normalized_error, find_minimal_float_layers
from tfx_finetune.deploy.gate import with_validation_gate
from tfx_finetune.deploy.verify import verify
from tfx_finetune.ops import litert
from tfx_finetune.report.summary import RunResult
from tfx_finetune.report.terminal import print_result
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.types.components import EXPORTS, PretrainedCfg

SELECTIVE = "tflite(quantize='int8', selective=True)"


def write(spec, servable, folder):
    """Write a file, and return its content and its predict function."""
    export = EXPORTS.build(parse_spec(spec))
    export.write(servable, folder / export.file_name)
    return (folder / export.file_name).read_bytes(), export.load(folder / export.file_name).predict


def with_outlier_channel(model):
    """Scale one channel of a tensor by 1000 and undo it in the next layer, which keeps the outputs."""
    first, second = model.servable.model.get_layer("stage1a_bn"), model.servable.model.get_layer("stage1b")
    gamma, beta, *rest = first.get_weights()
    gamma[0], beta[0] = 1000 * gamma[0], 1000 * beta[0]
    first.set_weights([gamma, beta, *rest])
    (kernel,) = second.get_weights()
    kernel[:, :, 0] /= 1000
    second.set_weights([kernel])
    return model


@pytest.fixture(scope="module")
def model():
    """Return a network that plain int8 quantization ruins."""
    small_model = with_outlier_channel(small({"kind": "classify()", "marks": "tag()"}))
    outputs = small_model.servable.model({"image": small_model.pixels}, training=False)
    for name, answers in small_model.answers.items():
        np.testing.assert_allclose(outputs[name], answers, atol=1e-4)
    return small_model


# ---- the search


def test_find_minimal_float_layers():
    """The result is exactly the set of needed names, or None if no set passes."""
    groups = [["a", "b"], ["b", "c"], ["d"], ["e", "f"], ["a", "g"]]
    names = sorted({name for group in groups for name in group})
    for count in range(len(names) + 1):
        for needed in itertools.combinations(names, count):
            assert set(
                find_minimal_float_layers(groups, lambda floats, needed=needed: set(needed) <= set(floats))
            ) == set(needed)
    assert find_minimal_float_layers(groups, lambda floats: False) is None
    assert find_minimal_float_layers([], lambda floats: False) is None


def test_the_search_needs_few_evaluations():
    """Three needed names of 256 are found in fewer than 45 evaluations."""
    evaluations = []
    groups = [[number] for number in range(256)]
    assert find_minimal_float_layers(
        groups, lambda floats: bool(evaluations.append(0)) or {2, 40, 99} <= set(floats)
    ) == [
        2,
        40,
        99,
    ]
    assert len(evaluations) < 45


def test_a_passing_file_is_evaluated_once():
    """If the file without float layers passes, no other set is evaluated."""
    evaluations = []
    assert find_minimal_float_layers([["a"], ["b"]], lambda floats: not evaluations.append(floats)) == []
    assert evaluations == [[]]


def test_normalized_error_per_channel():
    """With one scale, a channel of range 1 beside one of range 1000 loses all of its signal."""
    values = np.random.default_rng(0).uniform(-1, 1, (1, 9, 9, 2)).astype(np.float32)
    wide = values * [1, 1000]
    assert compute_normalized_error(wide, np.round(wide / 8), 8.0, 0) == pytest.approx(0.5, abs=0.01)
    assert compute_normalized_error(values, np.round(values / 0.008) + 5, 0.008, 5) < 1e-3
    assert compute_normalized_error(values, np.zeros_like(values), 1.0, 0) == 1
    assert compute_normalized_error(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 3), np.int8), 1.0, 0) == 0


# ---- the file


def test_exactly_the_ruined_layers_stay_float(model, tmp_path, capfd):
    """The producer and the consumer of the ruined tensor stay float, and the score drop is allowed."""
    served = model.servable
    _, plain = write("tflite(quantize='int8')", served, tmp_path)
    assert served.score_drop_fn(plain) > 2 * served.max_score_drop
    content, predict = write(SELECTIVE, served, tmp_path)
    assert served.score_drop_fn(predict) <= served.max_score_drop
    kinds = [kernel.dtype.name for kernel in litert.read_kernels(content)]
    assert kinds == ["float32", "float32", "int8", "int8", "int8", "int8"]
    ((_, detail),) = Interpreter(model_content=content).get_signature_runner().get_input_details().items()
    assert (detail["dtype"], detail["quantization"]) == (np.uint8, (1.0, 0))
    output, errors = capfd.readouterr()
    assert output == ""
    (line,) = [line for line in errors.splitlines() if not line.startswith("I0000 ")]
    assert line.startswith("tflite_int8_selective: 2 of ")
    assert "stage1a" in line
    assert "stage1b" in line
    assert "stage2" not in line


def test_float_layers_are_reported(model, tmp_path, capsys):
    """Verification records the float layers of an int8 file, and the summary prints them."""
    bundle = write_bundle(tmp_path / "bundle", model, f"tflite(), {SELECTIVE}")
    test = FeatureStore(({"image": model.pixels},), model.targets, {})
    plain, mixed = verify(bundle, model.golden, test, (model.targets, model.answers), VerifyOptions(max_drop=0.1))
    assert plain.float_ops == plain.total_ops > 0
    assert plain.float_layers == ()
    assert mixed.float_ops == 2
    assert [name.split("_")[0].split("/")[0] for name in mixed.float_layers] == ["stage1a", "stage1b"]
    assert mixed.to_dict()["float_layers"] == mixed.float_layers
    scores = {"kind/accuracy": 1.0, "marks/mean_average_precision": 1.0}
    result = RunResult([], test, (model.targets, model.answers), scores, (), None, [plain, mixed], None, None, None)
    print_result(tmp_path / "run", model.tasks, result)
    lines = [line for line in capsys.readouterr().err.splitlines() if "computes in float" in line]
    assert lines == [f"tflite_int8_selective computes in float in {', '.join(mixed.float_layers)}"]


def test_inputs_and_outputs_are_those_of_the_plain_file(model, tmp_path):
    """A selective file has the input and output types of the plain int8 file."""
    details_by_file = []
    for selective in (False, True):
        spec = f"tflite(quantize='int8', inputs='int8', outputs='int8', selective={selective})"
        write(spec, model.servable, tmp_path)
        runner = Interpreter(str(tmp_path / EXPORTS.build(parse_spec(spec)).file_name)).get_signature_runner()
        input_details, output_details = runner.get_input_details(), runner.get_output_details()
        assert input_details["image"]["quantization"] == (1.0, -128)
        details_by_file.append(
            {name: (detail["dtype"], *detail["shape"]) for name, detail in (input_details | output_details).items()}
        )
        assert {kind for kind, *_ in details_by_file[-1].values()} == {np.int8}
    assert details_by_file[0] == details_by_file[1]


def test_the_best_file_is_written_if_none_passes(model, tmp_path):
    """If no file passes, the file with the smallest score drop is written."""
    strict = dataclasses.replace(model.servable, max_score_drop=-1.0)
    _, predict = write(SELECTIVE, strict, tmp_path)
    assert strict.score_drop_fn(predict) < 0.01


def test_selective_needs_int8():
    """selective=True with another quantization is refused."""
    with pytest.raises(
        UserError, match=r"needs an int8 file: selective=True with quantize='float16'\. Say quantize='int8'\."
    ):
        EXPORTS.build(parse_spec("tflite(quantize='float16', selective=True)"))


# ---- what it is judged by


def test_score_drop_is_measured_on_validation_samples(tmp_path):
    """Without validation samples, the calibration samples with the model's predictions as targets are used."""
    folder = class_folder(tmp_path / "data", a=10, b=10, c=10)
    run = Run(data=str(folder), backbone="convnet(size=16)", heads="kind=classify()", workdir=str(tmp_path / "run"))
    run = dataclasses.replace(run, verify=VerifyOptions(max_drop=0.3), split=SplitOptions(val=0.4))
    plan = check(dataclasses.replace(run, exports=SELECTIVE))
    data = prepare_data(plan, {"image": PretrainedCfg(size=16)})
    served = dataclasses.replace(small({"kind": "classify()"}).servable, score_drop_fn=None)
    table = data.table
    joined = dataclasses.replace(table, split=np.where(table.split == "val", "train", table.split))
    for tested_data in (data, dataclasses.replace(data, table=joined)):
        batch_sizes = []

        def answer(inputs, batch_sizes=batch_sizes):
            batch_sizes.append(len(inputs["image"]))
            return {name: scores.numpy() for name, scores in served.model(inputs, training=False).items()}

        gated = with_validation_gate(plan.exports.values(), tested_data, served, plan.workdir, plan.run.verify.max_drop)
        assert gated.score_drop_fn(answer) == 0
        count = table.size("val") if tested_data is data else len(served.representative_dataset["image"])
        assert batch_sizes == [count]
        assert gated.max_score_drop == pytest.approx(max(0.3 / 2, 1 / count))
        assert gated.score_drop_fn(lambda inputs: {"kind/scores": np.full((len(inputs["image"]), 3), np.nan)}) == np.inf
    turned = gated.score_drop_fn(lambda inputs: {"kind/scores": np.roll(answer(inputs)["kind/scores"], 1, -1)})
    assert turned == 1, "without labels, the model is right by itself"
    plain = check(dataclasses.replace(run, exports="tflite()"))
    assert (
        with_validation_gate(plain.exports.values(), data, served, plain.workdir, plain.run.verify.max_drop) is served
    )


@pytest.mark.slow
def test_export_of_a_finished_run(trained_run, tmp_path):
    """`export` writes a selective file, verifies it and logs the float layers."""
    workdir = tmp_path / "run"
    shutil.copytree(trained_run.workdir, workdir)
    exports = f"tflite(quantize='int8'), {SELECTIVE}, ai_edge()"
    process = run_command("export", f"--bundle={workdir / 'bundle'}", f"--exports={exports}")
    assert process.returncode == 0, process.stderr
    assert "tflite_int8_selective: " in process.stderr
    manifest = json.loads((workdir / "bundle" / "manifest.json").read_text())
    assert manifest["verified"] == dict.fromkeys(
        ("tflite_int8", "tflite_int8_selective", "ai_edge_dynamic_wi8_afp32"), True
    )
