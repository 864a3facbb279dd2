"""Output, files and exit status of the commands."""

import json
import subprocess
import sys

import pytest

from tests.helpers.commands import SHAPE_NAMES, get_error, run_command, run_in_process, write_shapes
from tfx_finetune.core.command import COMMANDS

FORMATS = ["keras", "saved_model", "tflite", "tflite_float16", "tflite_int8"]
NO_BUNDLE = "error: --bundle is missing. Write --bundle=FOLDER, the folder bundle/ of a finished run."
FILES = ["model.keras", "saved_model", "model.tflite", "model_float16.tflite", "model_int8.tflite"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_tensorflow(name):
    """--help does not wait for TensorFlow, and names the command and its flags."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{name}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('tfx_finetune.{name}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert not {'tensorflow', 'keras', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"python -m tfx_finetune.{name}" in result.stdout
    assert "--flagfile=FILE" in result.stdout


def test_train_writes_the_work_folder(trained_run):
    """The work folder has the files that the README names, and every exported file passes verification."""
    workdir = trained_run.workdir
    for name in ["run.cfg", "checkpoints", "tensorboard", "report.html"]:
        assert (workdir / name).exists()
    bundle = workdir / "bundle"
    for name in ["manifest.json", "scores.json", "labels.txt", "golden", *FILES]:
        assert (bundle / name).exists()
    assert (bundle / "labels.txt").read_text().split() == list(SHAPE_NAMES)
    assert len([p for p in (bundle / "golden").iterdir() if p.suffix != ".json"]) == 8
    scores = json.loads((bundle / "scores.json").read_text())
    assert set(scores) == {"test", *FORMATS}
    assert scores["test"]["label/accuracy"] > 0.8
    assert not list(workdir.glob(".*")), "incomplete files are left"
    for format in FORMATS:
        assert format in trained_run.output
    for noise in ["Warning", "oneDNN", "absl", "cuda"]:
        assert noise not in trained_run.output


def test_the_report_has_the_command_that_reproduces_the_run(trained_run):
    """The command reads run.cfg of the work folder, which begins with the same command."""
    config = trained_run.workdir / "run.cfg"
    line = f"python -m tfx_finetune.train --flagfile={config}"
    assert f'<pre class="command">{line}</pre>' in (trained_run.workdir / "report.html").read_text()
    assert config.read_text().startswith(f"# {line}\n")


@pytest.mark.parametrize("format", ["keras", "saved_model", "tflite_int8"])
def test_predict_prints_one_json_line_per_file(trained_run, format):
    """A line has the file, the label, its score and the scores of all labels, for every exported file."""
    image, folder = trained_run.data / "disc" / "000.png", trained_run.data / "bar"
    result = run_in_process(
        "predict", f"--bundle={trained_run.workdir / 'bundle'}", f"--format={format}", image, folder
    )
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(image), *map(str, sorted(folder.iterdir()))]
    for line in lines:
        assert set(line) == {"file", "label", "score", "scores"}
        assert list(line["scores"]) == list(SHAPE_NAMES)
        assert line["score"] == max(line["scores"].values()) == line["scores"][line["label"]]
    assert sum(line["label"] == "bar" for line in lines[1:]) > 0.8 * (len(lines) - 1)


@pytest.mark.parametrize(
    ("format", "run"), [("keras", run_in_process), ("saved_model", run_in_process), ("tflite_int8", run_command)]
)
def test_evaluate_prints_one_json_object(trained_run, tmp_path, format, run):
    """All samples of other data are scored."""
    data = write_shapes(tmp_path / "other", images_per_class=10, seed=7)
    result = run("evaluate", f"--bundle={trained_run.workdir / 'bundle'}", f"--data={data}", f"--format={format}")
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout)
    assert scores["samples"] == 30
    # Chance is 1/3.
    assert scores["label/accuracy"] > 0.6
    assert sum(map(sum, scores["label/confusion"])) == 30


def test_inspect_prints_every_step_of_a_sample(trained_run):
    """A line has the shape, dtype and range of a step, from the file to the scores."""
    result = run_in_process("inspect", *trained_run.flags)
    assert result.returncode == 0, result.stderr
    for step in ["raw", "decoded", "augment 1", "prepared", "label/logits", "label/scores"]:
        assert step in result.stdout
    assert "uint8 (1, 24, 24, 3)" in result.stdout


def test_inspect_lists_every_component():
    """`--list` prints all components with their options, and all configs."""
    result = run_in_process("inspect", "--list")
    assert result.returncode == 0, result.stderr
    for text in [
        "--flagfile=configs/mnist.cfg",
        "efficientnet_lite0(weights: str = 'imagenet'",
        "classify(*, column",
        "tflite(quantize:",
        "folder(",
        "ties(density: float = 0.2",
    ]:
        assert text in result.stdout


@pytest.mark.slow
def test_the_python_api_is_equivalent_to_the_command(trained_run, tmp_path):
    """`train` and `Bundle.predict` give the results of the commands; run.cfg reproduces the model."""
    code = (
        "import sys, json, tfx_finetune as tfx\n"
        "from tfx_finetune.core import flagfile\n"
        "run, _ = flagfile.parse_flags(sys.argv, tfx.Run())\n"
        "bundle = tfx.train(run)\n"
        f"print(json.dumps(bundle.predict([{str(trained_run.data / 'disc' / '000.png')!r}])))\n"
    )
    workdir = tmp_path / trained_run.workdir.name
    arguments = [f"--flagfile={trained_run.workdir / 'run.cfg'}", f"--workdir={workdir}", "--exports=keras_file()"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    reference = run_in_process(
        "predict", f"--bundle={trained_run.workdir / 'bundle'}", trained_run.data / "disc" / "000.png"
    )
    assert json.loads(result.stdout) == [json.loads(reference.stdout)]
    first, second = (folder / "bundle" / "golden" / "outputs.json" for folder in (trained_run.workdir, workdir))
    assert second.read_bytes() == first.read_bytes()


def test_a_closed_output_is_no_error(trained_run):
    """`... | head -1` prints one line and no error."""
    bundle = trained_run.workdir / "bundle"
    line = f"{sys.executable} -m tfx_finetune.predict --bundle={bundle} {trained_run.data} | head -1"
    result = subprocess.run(line, shell=True, capture_output=True, text=True)
    (line,) = result.stdout.splitlines()
    assert set(json.loads(line)) == {"file", "label", "score", "scores"}
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", [], "error: --data is missing. Write --data=FOLDER, a folder with one sub-folder per class."),
        ("train", ["--data=/nowhere/photos"], "error: No such file or folder: /nowhere/photos. Check the path."),
        (
            "train",
            ["--data=x", "--finetune.epoch=3"],
            "Unknown flag: --finetune.epoch. Did you mean --finetune.epochs?",
        ),
        (
            "train",
            ["--data=.", "--backbone=efficientnet_lite9()"],
            "Did you mean efficientnet_lite",
        ),
        (
            "train",
            ["--data=.", "--exports=tflite(quantise='int8')"],
            "Did you mean quantize?",
        ),
        ("train", ["--data=.", "--flagfile=/nowhere/x.cfg"], "Invalid flag: "),
        ("predict", ["a.jpg"], NO_BUNDLE),
        ("predict", ["--bundle=/nowhere", "a.jpg"], " is not a bundle: /nowhere. "),
        ("predict", ["--bundle=/nowhere"], "error: No files to predict. Name files or folders after the flags."),
        ("evaluate", ["--data=x"], NO_BUNDLE),
        ("inspect", [], "error: --data is missing. "),
    ],
)
def test_errors_are_one_line(name, arguments, message):
    """The line has what is wrong, the value, the valid values and what to do; the exit status is 2."""
    assert message in get_error(name, *arguments)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("train", " Say --data=x."),
        ("tune", " Say --data=x."),
        ("data", " Say --data=x."),
        ("evaluate", " Say --bundle=x or --data=x."),
        ("export", " Say --bundle=x."),
        ("benchmark", " Say --bundle=x."),
        ("serve", " Say --bundle=x."),
        ("doctor", ""),
    ],
)
def test_an_argument_without_a_flag_is_an_error(name, hint):
    """Commands that take only flags suggest a flag for the argument."""
    assert get_error(name, "x") == f"error: {name} takes only flags: x.{hint}"


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("tf2onnx", "onnx", ["train", "--data=.", "--exports=onnx()"]),
        ("openvino", "openvino", ["train", "--data=.", "--exports=openvino()"]),
        ("ai_edge_quantizer", "quantizer", ["train", "--data=.", "--exports=ai_edge()"]),
        ("optuna", "tune", ["tune", "--data=."]),
        ("uvicorn", "serve", ["serve", "--bundle=x"]),
    ],
)
def test_a_missing_package_is_named(module, extra, arguments, monkeypatch):
    """The error names the extra that installs the package, before data is read."""
    monkeypatch.setitem(sys.modules, module, None)
    message = f"error: A required package is not installed: {module}. Run: pip install 'tfx_finetune[{extra}]'."
    assert get_error(*arguments) == message


def test_an_error_ends_the_process():
    """The error line is the last output of the process."""
    assert "error: --data is missing. Write --data=FOLDER" in get_error("train", run=run_command)
