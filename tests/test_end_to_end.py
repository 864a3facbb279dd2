"""The whole path on real pictures with real weights, as the README tells it."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.assets import asset
from tests.commands import command
from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.plan import check
from tfx_finetune.sources.spoken_digits import VOICES

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_sound(path, tmp_path):
    """Each opens with the command that runs it, and passes the check of configurations."""
    assert f"python -m tfx_finetune.train --flagfile=configs/{path.name}" in path.read_text()
    (tmp_path / "photos").mkdir()
    # The command line wins: folder.cfg is used with a folder of one's own.
    extra = [f"--data={tmp_path / 'photos'}"] if path.stem == "folder" else []
    run, _ = flagfile.parse(["train", f"--flagfile={path}", *extra], Run())
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
def test_finding_notebook(tmp_path):
    """As the other one; things never seen are found, and the program in the bundle finds them, too."""
    for name in ("efficientnet-lite0", "tux-stamps", "opencv-photographs"):
        asset(name)
    notebook = nbformat.read(ROOT / "notebooks" / "finding.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    scores = json.loads((tmp_path / "runs" / "finding" / "bundle" / "scores.json").read_text())["test"]
    assert scores["objects/ap50"] > 0.1
    assert scores["mask/miou"] > 0.2
    assert "objects/boxes" in notebook.cells[-1].outputs[0].text


@pytest.mark.slow
def test_multimodal_notebook(tmp_path):
    """As the other one; everything together is better than any input alone, and the last cell runs without one."""
    for name in ("mnist", "cldr-rbnf", "speech-embedding", *(f"digits-{voice}" for voice in VOICES)):
        asset(name)
    notebook = nbformat.read(ROOT / "notebooks" / "multimodal.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    scores = json.loads((tmp_path / "runs" / "multimodal" / "bundle" / "scores.json").read_text())
    accuracy = {" ".join(part["towers"]): part["label/accuracy"] for part in scores["subsets"]}
    assert accuracy["image audio text"] > max(accuracy[tower] for tower in ("image", "audio", "text")) > 0.5
    (without,) = notebook.cells[-1].outputs
    assert without.text.startswith("without the picture: ")
