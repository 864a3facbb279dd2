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
    """Where a reader of the page stands: a bundle and a picture."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(trained_run.workdir / "bundle", folder / "bundle")
    shutil.copy(sorted((trained_run.data / "disc").glob("*.jpg"))[0], folder / "a.jpg")
    return folder


@pytest.mark.slow
def test_every_snippet_says_what_the_bundle_says(folder):
    """The label, and its score within what the preparation of pictures by Pillow makes of it."""
    (expected,) = Bundle.open(folder / "bundle").predict([folder / "a.jpg"])
    assert len(SNIPPETS) == 4
    with running_server(folder / "bundle") as server:
        for snippet in SNIPPETS:
            code = snippet.replace("localhost:8501", f"127.0.0.1:{server.port}")
            found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
            assert found.returncode == 0, found.stderr
            label, score = found.stdout.split()
            assert label == expected["label"], snippet
            assert float(score) == pytest.approx(expected["score"], abs=0.1), snippet
