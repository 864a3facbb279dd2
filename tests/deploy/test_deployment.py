"""The snippets of the guides `deploy.md` and `serve.md` print the predictions of the bundle."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.servers import running_server
from tfx_finetune.bundle.bundle import Bundle

GUIDES = Path(__file__).parent.parent.parent / "docs" / "how-to"
TEXT = "".join((GUIDES / name).read_text(encoding="utf-8") for name in ("deploy.md", "serve.md"))
# test_openvino.py covers the snippet for OpenVINO, on a bundle with such a file.
SNIPPETS = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "openvino" not in code]


@pytest.fixture(scope="module")
def folder(trained_run, tmp_path_factory):
    """Return a folder with a bundle and an image, as the guides expect."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(trained_run.workdir / "bundle", folder / "bundle")
    shutil.copy(sorted((trained_run.data / "disc").glob("*.jpg"))[0], folder / "a.jpg")
    return folder


@pytest.mark.slow
def test_every_snippet_predicts_like_the_bundle(folder):
    """Each snippet prints the label of the bundle, and its score within the error of image resizing by Pillow."""
    (expected,) = Bundle.open(folder / "bundle").predict([folder / "a.jpg"])
    assert len(SNIPPETS) == 4
    with running_server(folder / "bundle") as server:
        for snippet in SNIPPETS:
            code = snippet.replace("localhost:8501", f"127.0.0.1:{server.port}")
            process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
            assert process.returncode == 0, process.stderr
            label, score = process.stdout.split()
            assert label == expected["label"], snippet
            assert float(score) == pytest.approx(expected["score"], abs=0.1), snippet
