"""Training and export on real data with pretrained weights, as in the README and the notebooks."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.assets import fetch_asset
from tests.helpers.commands import run_command
from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.datasets.samples.spoken_digits import VOICES
from tfx_finetune.run.plan import check

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid(path, tmp_path):
    """A config begins with the command that runs it, and its options are valid."""
    assert f"python -m tfx_finetune.train --flagfile=configs/{path.name}" in path.read_text()
    (tmp_path / "photos").mkdir()
    # folder.cfg is used with a folder on the command line.
    extra = [f"--data={tmp_path / 'photos'}"] if path.stem == "folder" else []
    run, _ = flagfile.parse_flags(["train", f"--flagfile={path}", *extra], Run())
    assert check(run).phases


@pytest.mark.slow
def test_quickstart(tmp_path):
    """On 13 classes, EfficientNet-Lite0 has an accuracy of at least 0.82 on the test split, int8 at most 0.02 less."""
    for name in ("efficientnet-lite0", "tux-stamps"):
        fetch_asset(name)
    flags = [f"--flagfile={ROOT / 'configs' / 'quickstart.cfg'}", f"--workdir={tmp_path / 'run'}", "--nocache.enabled"]
    result = run_command("train", *flags, timeout=1200)
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "run" / "bundle" / "scores.json").read_text())
    accuracy = scores["test"]["label/accuracy"]
    assert accuracy >= 0.82
    for name in ("keras", "saved_model", "tflite", "tflite_float16"):
        assert abs(scores[name]["label/accuracy"] - accuracy) <= 0.001
    assert scores["tflite_int8"]["label/accuracy"] >= accuracy - 0.02


@pytest.mark.slow
def test_quickstart_notebook(tmp_path):
    """All cells of the notebook run."""
    for name in ("efficientnet-lite0", "tux-stamps"):
        fetch_asset(name)
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (scores,) = [cell for cell in notebook.cells if "scores.json" in cell.source]
    assert "tflite_int8" in scores.outputs[0].text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "score", "min_score"), [("detection", "objects/ap50", 0.1), ("segmentation", "mask/miou", 0.3)]
)
def test_detection_and_segmentation_notebooks(tmp_path, name, score, min_score):
    """The model and its TFLite file find new objects, and new samples are written as a source."""
    for asset_name in ("efficientnet-lite0", "tux-stamps", "opencv-photographs"):
        fetch_asset(asset_name)
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    scores = json.loads((tmp_path / "runs" / name / "bundle" / "scores.json").read_text())["test"]
    assert scores[score] > min_score
    litert_text, source_text = (
        "".join(
            output.text for cell in notebook.cells if word in cell.source for output in cell.outputs if "text" in output
        )
        for word in ("Interpreter", "SOURCES")
    )
    classes = {"birds", "fruit", "vehicles"}
    assert classes & set(re.findall(r"\w+", litert_text))
    assert source_text.startswith("{'all': 3}")
    assert classes <= set(re.findall(r"\w+", source_text.splitlines()[0]))
    assert len(source_text.splitlines()) == 4


@pytest.mark.slow
def test_multimodal_notebook(tmp_path):
    """All inputs together score better than each input alone, and the last cell leaves an input out."""
    for name in ("mnist", "cldr-rbnf", "speech-embedding", *(f"digits-{voice}" for voice in VOICES)):
        fetch_asset(name)
    notebook = nbformat.read(ROOT / "notebooks" / "multimodal.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    scores = json.loads((tmp_path / "runs" / "multimodal" / "bundle" / "scores.json").read_text())
    accuracy = {" ".join(row["towers"]): row["label/accuracy"] for row in scores["ablations"]}
    assert accuracy["image audio text"] > max(accuracy[tower] for tower in ("image", "audio", "text")) > 0.5
    (without,) = notebook.cells[-1].outputs
    assert without.text.startswith("without the image: ")
