"""The fewest layers of an int8 file stay float, and the score holds."""

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
    """Writes a file; returns its content and its predict function."""
    export = EXPORTS.build(parse_spec(spec))
    export.write(servable, folder / export.file_name)
    return (folder / export.file_name).read_bytes(), export.load(folder / export.file_name).predict


def worn(model):
    """The same answers, but one channel of one tensor is a thousand times larger, which the next layer undoes."""
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
    """A network that plain int8 ruins."""
    made = worn(small({"kind": "classify()", "marks": "tag()"}))
    found = made.servable.model({"image": made.pixels}, training=False)
    for name, answers in made.answers.items():
        np.testing.assert_allclose(found[name], answers, atol=1e-4)
    return made


# ---- the search


def test_the_fewest_are_found():
    """Whatever a file needs, nothing else stays float; None where it never holds."""
    groups = [["a", "b"], ["b", "c"], ["d"], ["e", "f"], ["a", "g"]]
    names = sorted({name for group in groups for name in group})
    for count in range(len(names) + 1):
        for needed in itertools.combinations(names, count):
            assert set(
                find_minimal_float_layers(groups, lambda floats, needed=needed: set(needed) <= set(floats))
            ) == set(needed)
    assert find_minimal_float_layers(groups, lambda floats: False) is None
    assert find_minimal_float_layers([], lambda floats: False) is None


def test_few_files_are_tried():
    """Three of 256, the last of them the 100th: not one by one."""
    asked = []
    groups = [[number] for number in range(256)]
    assert find_minimal_float_layers(groups, lambda floats: bool(asked.append(0)) or {2, 40, 99} <= set(floats)) == [
        2,
        40,
        99,
    ]
    assert len(asked) < 45


def test_a_file_that_holds_as_it_is_is_asked_once():
    """Nothing stays float."""
    asked = []
    assert find_minimal_float_layers([["a"], ["b"]], lambda floats: not asked.append(floats)) == []
    assert asked == [[]]


def test_an_error_is_measured_in_its_own_channel():
    """Beside a channel of 1000, another of 1 is lost by steps of 8; alone it loses next to nothing."""
    values = np.random.default_rng(0).uniform(-1, 1, (1, 9, 9, 2)).astype(np.float32)
    wide = values * [1, 1000]
    assert compute_normalized_error(wide, np.round(wide / 8), 8.0, 0) == pytest.approx(0.5, abs=0.01)
    assert compute_normalized_error(values, np.round(values / 0.008) + 5, 0.008, 5) < 1e-3
    assert compute_normalized_error(values, np.zeros_like(values), 1.0, 0) == 1
    assert compute_normalized_error(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 3), np.int8), 1.0, 0) == 0


# ---- the file


def test_exactly_the_ruined_layers_stay_float(model, tmp_path, capfd):
    """The one that gives the tensor and the one that takes it; the file then answers as the model does."""
    served = model.servable
    _, plain = write("tflite(quantize='int8')", served, tmp_path)
    assert served.score_drop_fn(plain) > 2 * served.max_score_drop
    content, predict = write(SELECTIVE, served, tmp_path)
    assert served.score_drop_fn(predict) <= served.max_score_drop
    kinds = [kernel.dtype.name for kernel in litert.read_kernels(content)]
    assert kinds == ["float32", "float32", "int8", "int8", "int8", "int8"]
    ((_, fed),) = Interpreter(model_content=content).get_signature_runner().get_input_details().items()
    assert (fed["dtype"], fed["quantization"]) == (np.uint8, (1.0, 0))
    output, errors = capfd.readouterr()
    assert output == ""
    (line,) = [line for line in errors.splitlines() if not line.startswith("I0000 ")]
    assert line.startswith("tflite_int8_selective: 2 of ")
    assert "stage1a" in line
    assert "stage1b" in line
    assert "stage2" not in line


def test_layers_that_stay_float_are_named(model, tmp_path, capsys):
    """Where verification finds them in a file of integers, in scores.json and below the table of files."""
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


def test_it_takes_and_gives_what_the_plain_file_does(model, tmp_path):
    """Types, scales and names, of integers alone."""
    both = []
    for selective in (False, True):
        spec = f"tflite(quantize='int8', inputs='int8', outputs='int8', selective={selective})"
        write(spec, model.servable, tmp_path)
        runner = Interpreter(str(tmp_path / EXPORTS.build(parse_spec(spec)).file_name)).get_signature_runner()
        fed, given = runner.get_input_details(), runner.get_output_details()
        assert fed["image"]["quantization"] == (1.0, -128)
        both.append({name: (detail["dtype"], *detail["shape"]) for name, detail in (fed | given).items()})
        assert {kind for kind, *_ in both[-1].values()} == {np.int8}
    assert both[0] == both[1]


def test_where_nothing_holds_the_best_file_is_written(model, tmp_path):
    """It is refused by `verify`, as any other file is."""
    strict = dataclasses.replace(model.servable, max_score_drop=-1.0)
    _, predict = write(SELECTIVE, strict, tmp_path)
    assert strict.score_drop_fn(predict) < 0.01


def test_only_an_int8_file_has_layers_to_choose():
    """All others are refused before anything is done."""
    with pytest.raises(UserError, match=r"needs an int8 file: selective=True with quantize='float16'\. Say quantize='int8'\."):
        EXPORTS.build(parse_spec("tflite(quantize='float16', selective=True)"))


# ---- what it is judged by


def test_files_are_judged_on_validation_samples(tmp_path):
    """Or, without any, by what the model says of the samples for calibration; never on the test split."""
    folder = class_folder(tmp_path / "data", a=10, b=10, c=10)
    run = Run(data=str(folder), backbone="convnet(size=16)", heads="kind=classify()", workdir=str(tmp_path / "run"))
    run = dataclasses.replace(run, verify=VerifyOptions(max_drop=0.3), split=SplitOptions(val=0.4))
    plan = check(dataclasses.replace(run, exports=SELECTIVE))
    data = prepare_data(plan, {"image": PretrainedCfg(size=16)})
    served = dataclasses.replace(small({"kind": "classify()"}).servable, score_drop_fn=None)
    table = data.table
    joined = dataclasses.replace(table, split=np.where(table.split == "val", "train", table.split))
    for known in (data, dataclasses.replace(data, table=joined)):
        shown = []

        def answer(inputs, shown=shown):
            shown.append(len(inputs["image"]))
            return {name: scores.numpy() for name, scores in served.model(inputs, training=False).items()}

        found = with_validation_gate(plan.exports.values(), known, served, plan.workdir, plan.run.verify.max_drop)
        assert found.score_drop_fn(answer) == 0
        count = table.size("val") if known is data else len(served.representative_dataset["image"])
        assert shown == [count]
        assert found.max_score_drop == pytest.approx(max(0.3 / 2, 1 / count))
        assert found.score_drop_fn(lambda inputs: {"kind/scores": np.full((len(inputs["image"]), 3), np.nan)}) == np.inf
    turned = found.score_drop_fn(lambda inputs: {"kind/scores": np.roll(answer(inputs)["kind/scores"], 1, -1)})
    assert turned == 1, "without labels, the model is right by itself"
    plain = check(dataclasses.replace(run, exports="tflite()"))
    assert (
        with_validation_gate(plain.exports.values(), data, served, plain.workdir, plain.run.verify.max_drop) is served
    )


@pytest.mark.slow
def test_a_finished_run_writes_it(trained_run, tmp_path):
    """Beside the plain file, verified; the command says which layers stay float."""
    workdir = tmp_path / "run"
    shutil.copytree(trained_run.workdir, workdir)
    exports = f"tflite(quantize='int8'), {SELECTIVE}, ai_edge()"
    found = run_command("export", f"--bundle={workdir / 'bundle'}", f"--exports={exports}")
    assert found.returncode == 0, found.stderr
    assert "tflite_int8_selective: " in found.stderr
    manifest = json.loads((workdir / "bundle" / "manifest.json").read_text())
    assert manifest["verified"] == dict.fromkeys(
        ("tflite_int8", "tflite_int8_selective", "ai_edge_dynamic_wi8_afp32"), True
    )
