"""Exported files in a real browser: LiteRT.js runs TFLite files, ONNX Runtime Web runs the ONNX file."""

import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.small_model import small
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.types.components import EXPORTS

PACKAGES = ("@litertjs/core@2.5.3", "onnxruntime-web@1.30.0")
PAGE = Path(__file__).with_name("browser.html")
SPECS = (
    *("tflite()", "tflite(quantize='float16')", "tflite(quantize='dynamic')"),
    *("tflite(quantize='int8')", "tflite(quantize='int16x8')", "onnx()"),
)


class Handler(http.server.SimpleHTTPRequestHandler):
    """HTTP handler that serves a folder and receives the results of the page."""

    def __init__(self, *arguments, answers, **options):
        self.answers = answers
        super().__init__(*arguments, **options)

    def do_POST(self):
        self.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def browser() -> str:
    """Return the command of the browser; skip the test if there is none."""
    command = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if command is None or shutil.which("npm") is None:
        pytest.skip("needs chromium and npm, such as Debian's packages of these names")
    return command


def in_browser(command: str, folder: Path) -> dict:
    """Open the page in a headless browser and wait for its results."""
    answers: queue.Queue = queue.Queue()
    handler = functools.partial(Handler, directory=folder, answers=answers)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # A container's root has no sandbox; the page is this test's own.
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}")
        page = f"http://127.0.0.1:{server.server_port}/browser.html"
        child = subprocess.Popen([command, *flags, page], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            results = answers.get(timeout=120)
        finally:
            child.terminate()
            child.wait(30)
            server.shutdown()
    assert "error" not in results, results["error"]
    return results


@pytest.mark.slow
def test_a_browser_predicts_like_the_model(tmp_path):
    """TFLite files and the ONNX file have the same inputs, outputs and scores in a browser."""
    command = browser()
    installed = subprocess.run(
        ["npm", "install", "--prefix", tmp_path, "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"npm cannot install {', '.join(PACKAGES)}")
    model = small({"kind": "classify()", "marks": "tag()"})
    exports = [EXPORTS.build(parse_spec(spec)) for spec in SPECS]
    for export in exports:
        export.write(model.servable, tmp_path / export.file_name)
    pictures = model.pixels[:5]
    samples = {
        "files": [export.file_name for export in exports],
        "pictures": [picture.ravel().tolist() for picture in pictures],
        "shape": pictures.shape[1:],
    }
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    shutil.copy(PAGE, tmp_path)
    results = in_browser(command, tmp_path)
    for export in exports:
        here = export.load(tmp_path / export.file_name).predict({"image": pictures})
        for name, expected in here.items():
            browser_scores = np.array([scores[name] for scores in results[export.file_name]["scores"]]).reshape(
                expected.shape
            )
            # Integers are rounded a step apart where two kernels add in another order.
            np.testing.assert_allclose(browser_scores, expected, atol=0.02 if export.quantized else 1e-5)
            np.testing.assert_allclose(browser_scores, model.answers[name][:5], atol=export.tolerance)
            assert np.ptp(browser_scores, axis=0).max() > 0.1
