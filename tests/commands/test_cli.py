"""The commands as a person types them: what they print, what they leave behind, how they end."""

import json
import subprocess
import sys

import pytest

from tests.helpers.commands import KINDS, command, refused, shapes, within

FORMATS = ["keras", "saved_model", "tflite", "tflite_float16", "tflite_int8"]
FILES = ["model.keras", "saved_model", "model.tflite", "model_float16.tflite", "model_int8.tflite"]


@pytest.mark.parametrize("name", ["train", "tune", "data", "predict", "evaluate", "inspect", "doctor"])
def test_help_needs_no_tensorflow(name):
    """--help answers at once, and names every flag."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{name}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('tfx_finetune.{name}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert not {'tensorflow', 'keras', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert f"python -m tfx_finetune.{name}" in found.stdout
    assert "--flagfile=FILE" in found.stdout


def test_train_leaves_everything_behind(trained):
    """The work folder holds what the README promises, and every file passed."""
    workdir = trained.workdir
    for name in ["run.cfg", "checkpoints", "tensorboard", "report.html"]:
        assert (workdir / name).exists()
    bundle = workdir / "bundle"
    for name in ["manifest.json", "scores.json", "labels.txt", "golden", *FILES]:
        assert (bundle / name).exists()
    assert (bundle / "labels.txt").read_text().split() == list(KINDS)
    assert len([p for p in (bundle / "golden").iterdir() if p.suffix != ".json"]) == 8
    scores = json.loads((bundle / "scores.json").read_text())
    assert set(scores) == {"test", *FORMATS}
    assert scores["test"]["label/accuracy"] > 0.8
    assert not list(workdir.glob(".*")), "half-written files are left"
    for format in FORMATS:
        assert format in trained.output
    for noise in ["Warning", "oneDNN", "absl", "cuda"]:
        assert noise not in trained.output


def test_the_report_says_how_to_make_the_run_again(trained):
    """By the flag file in the work folder, whatever command or notebook trained: the same line opens that file."""
    config = trained.workdir / "run.cfg"
    line = f"python -m tfx_finetune.train --flagfile={config}"
    assert f'<pre class="command">{line}</pre>' in (trained.workdir / "report.html").read_text()
    assert config.read_text().startswith(f"# {line}\n")


@pytest.mark.parametrize("format", ["keras", "saved_model", "tflite_int8"])
def test_predict_prints_a_json_line_a_file(trained, format):
    """File, label, score and the scores of all labels, whatever runs the model."""
    picture, folder = trained.data / "disc" / "000.png", trained.data / "bar"
    found = within("predict", f"--bundle={trained.workdir / 'bundle'}", f"--format={format}", picture, folder)
    assert found.returncode == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(picture), *map(str, sorted(folder.iterdir()))]
    for line in lines:
        assert set(line) == {"file", "label", "score", "scores"}
        assert list(line["scores"]) == list(KINDS)
        assert line["score"] == max(line["scores"].values()) == line["scores"][line["label"]]
    assert sum(line["label"] == "bar" for line in lines[1:]) > 0.8 * (len(lines) - 1)


@pytest.mark.parametrize(("format", "run"), [("keras", within), ("saved_model", within), ("tflite_int8", command)])
def test_evaluate_prints_one_json_object(trained, tmp_path, format, run):
    """Every score of a file on data that it never saw, nothing held back."""
    other = shapes(tmp_path / "other", each=10, seed=7)
    found = run("evaluate", f"--bundle={trained.workdir / 'bundle'}", f"--data={other}", f"--format={format}")
    assert found.returncode == 0, found.stderr
    scores = json.loads(found.stdout)
    assert scores["samples"] == 30
    # Guessing gives a third.
    assert scores["label/accuracy"] > 0.6
    assert sum(map(sum, scores["label/confusion"])) == 30


def test_inspect_walks_one_sample(trained):
    """Shapes, dtypes and ranges of every step, from the file to the scores."""
    found = within("inspect", *trained.flags)
    assert found.returncode == 0, found.stderr
    for step in ["raw", "decoded", "augment 1", "prepared", "label/logits", "label/scores"]:
        assert step in found.stdout
    assert "uint8 (1, 24, 24, 3)" in found.stdout


def test_inspect_lists_every_component():
    """What a spec may name, with its options, and what `--flagfile` may."""
    found = within("inspect", "--list")
    assert found.returncode == 0, found.stderr
    for text in [
        "--flagfile=configs/mnist.cfg",
        "efficientnet_lite0(weights: str = 'imagenet'",
        "classify(*, column",
        "tflite(quantize:",
        "folder(",
        "ties(density: float = 0.2",
    ]:
        assert text in found.stdout


@pytest.mark.slow
def test_python_is_the_same_as_the_command(trained, tmp_path):
    """Two lines in a notebook train and predict; the flag file that a run leaves gives the same model."""
    code = (
        "import sys, json, tfx_finetune as tfx\n"
        "from tfx_finetune.core import flagfile\n"
        "run, _ = flagfile.parse(sys.argv, tfx.Run())\n"
        "bundle = tfx.train(run)\n"
        f"print(json.dumps(bundle.predict([{str(trained.data / 'disc' / '000.png')!r}])))\n"
    )
    workdir = tmp_path / trained.workdir.name
    arguments = [f"--flagfile={trained.workdir / 'run.cfg'}", f"--workdir={workdir}", "--exports=keras_file()"]
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    ours = within("predict", f"--bundle={trained.workdir / 'bundle'}", trained.data / "disc" / "000.png")
    assert json.loads(found.stdout) == [json.loads(ours.stdout)]
    golden, again = (w / "bundle" / "golden" / "outputs.json" for w in (trained.workdir, workdir))
    assert again.read_bytes() == golden.read_bytes()


def test_a_reader_that_has_enough_is_no_error(trained):
    """`... | head -1` prints its line and nothing else."""
    line = f"{sys.executable} -m tfx_finetune.predict --bundle={trained.workdir / 'bundle'} {trained.data} | head -1"
    found = subprocess.run(line, shell=True, capture_output=True, text=True)
    (line,) = found.stdout.splitlines()
    assert set(json.loads(line)) == {"file", "label", "score", "scores"}
    assert found.stderr == ""


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", [], "no data given; say --data=FOLDER"),
        ("train", ["--data=/nowhere/photos"], "no such folder or file; received: /nowhere/photos"),
        ("train", ["--data=x", "--finetune.epoch=3"], "did you mean --finetune.epochs?"),
        ("train", ["--data=.", "--backbone=efficientnet_lite9()"], "did you mean efficientnet_lite"),
        ("train", ["--data=.", "--exports=tflite(quantise='int8')"], "did you mean quantize?"),
        ("train", ["--data=.", "--flagfile=/nowhere/x.cfg"], "flagfile"),
        ("predict", ["a.jpg"], "no bundle given"),
        ("predict", ["--bundle=/nowhere", "a.jpg"], "not a bundle"),
        ("predict", ["--bundle=/nowhere"], "nothing to predict"),
        ("evaluate", ["--data=x"], "no bundle given"),
        ("inspect", [], "no data given"),
    ],
)
def test_mistakes_end_in_one_line(name, arguments, message):
    """What is wrong, what was received, what is allowed, what to do; exit status 2."""
    assert message in refused(name, *arguments)


@pytest.mark.parametrize(
    ("name", "todo"),
    [
        ("train", "; say --data=x"),
        ("tune", "; say --data=x"),
        ("data", "; say --data=x"),
        ("evaluate", "; say --bundle=x or --data=x"),
        ("export", "; say --bundle=x"),
        ("benchmark", "; say --bundle=x"),
        ("serve", "; say --bundle=x"),
        ("doctor", ""),
    ],
)
def test_a_word_without_a_flag_is_a_mistake(name, todo):
    """In every command that takes flags alone."""
    assert refused(name, "x").endswith(f"error: {name} takes flags alone; received: x{todo}")


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
def test_a_package_that_is_missing_is_named(module, extra, arguments, monkeypatch):
    """Before anything is read or trained, with the extra that brings it."""
    monkeypatch.setitem(sys.modules, module, None)
    wanted = f"a package that this needs is not installed; received: {module}; pip install 'tfx_finetune[{extra}]'"
    assert refused(*arguments) == f"error: {wanted}"


def test_a_mistake_ends_the_process():
    """The same line is the last that the command's own process says, before its exit status."""
    assert "no data given; say --data=FOLDER" in refused("train", run=command)
