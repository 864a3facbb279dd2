"""The whole path on real pictures with real weights, as the README tells it."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.assets import asset
from tests.helpers.commands import command
from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.datasets.samples.spoken_digits import VOICES
from tfx_finetune.run.plan import check

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_sound(path, tmp_path):
    """Each opens with the command that runs it, and passes the check of configurations."""
    assert f"python -m tfx_finetune.train --flagfile=configs/{path.name}" in path.read_text()
    (tmp_path / "photos").mkdir()
    # The command line wins: folder.cfg is used with a folder of one's own.
    extra = [f"--data={tmp_path / 'photos'}"] if path.stem == "folder" else []
    run, _ = flagfile.parse_flags(["train", f"--flagfile={path}", *extra], Run())
    assert check(run).phases


@pytest.mark.slow
def test_quickstart(tmp_path):
    """13 categories, EfficientNet-Lite0: at least 0.82 on the held-out quarter, int8 within 0.02 of it."""
    for name in ("efficientnet-lite0", "tux-stamps"):
        asset(name)
    flags = [f"--flagfile={ROOT / 'configs' / 'quickstart.cfg'}", f"--workdir={tmp_path / 'run'}", "--nocache.enabled"]
    found = command("train", *flags, timeout=1200)
    assert found.returncode == 0, found.stderr
    scores = json.loads((tmp_path / "run" / "bundle" / "scores.json").read_text())
    accuracy = scores["test"]["label/accuracy"]
    assert accuracy >= 0.82
    for name in ("keras", "saved_model", "tflite", "tflite_float16"):
        assert abs(scores[name]["label/accuracy"] - accuracy) <= 0.001
    assert scores["tflite_int8"]["label/accuracy"] >= accuracy - 0.02


@pytest.mark.slow
def test_quickstart_notebook(tmp_path):
    """The notebook runs from its first cell to its last."""
    for name in ("efficientnet-lite0", "tux-stamps"):
        asset(name)
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (scores,) = [cell for cell in notebook.cells if "scores.json" in cell.source]
    assert "tflite_int8" in scores.outputs[0].text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "score", "least"), [("detection", "objects/ap50", 0.1), ("segmentation", "mask/miou", 0.3)]
)
def test_notebooks_of_things_in_pictures(tmp_path, name, score, least):
    """As the other one; things never seen are found, by the TFLite file alone too, and make data of one's own."""
    for needed in ("efficientnet-lite0", "tux-stamps", "opencv-photographs"):
        asset(needed)
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    scores = json.loads((tmp_path / "runs" / name / "bundle" / "scores.json").read_text())["test"]
    assert scores[score] > least
    by_hand, own = (
        "".join(each.text for cell in notebook.cells if mark in cell.source for each in cell.outputs if "text" in each)
        for mark in ("Interpreter", "SOURCES")
    )
    kinds = {"birds", "fruit", "vehicles"}
    assert kinds & set(re.findall(r"\w+", by_hand))
    assert own.startswith("{'all': 3}")
    assert kinds <= set(re.findall(r"\w+", own.splitlines()[0]))
    assert len(own.splitlines()) == 4


@pytest.mark.slow
def test_multimodal_notebook(tmp_path):
    """As the other one; everything together is better than any input alone, and the last cell runs without one."""
    for name in ("mnist", "cldr-rbnf", "speech-embedding", *(f"digits-{voice}" for voice in VOICES)):
        asset(name)
    notebook = nbformat.read(ROOT / "notebooks" / "multimodal.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    scores = json.loads((tmp_path / "runs" / "multimodal" / "bundle" / "scores.json").read_text())
    accuracy = {" ".join(part["towers"]): part["label/accuracy"] for part in scores["ablations"]}
    assert accuracy["image audio text"] > max(accuracy[tower] for tower in ("image", "audio", "text")) > 0.5
    (without,) = notebook.cells[-1].outputs
    assert without.text.startswith("without the picture: ")
