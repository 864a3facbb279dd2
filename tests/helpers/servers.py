"""The server as a process, for tests that send requests."""

import contextlib
import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Server(NamedTuple):
    """A running server and the folder of the bundles that it serves."""

    process: subprocess.Popen
    port: int
    versions: Path

    def send(self, method, path, body=b"", connection=None):
        """Send a request and return the status, headers and message of the response."""
        connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read())

    def predict(self, body, model="default"):
        """Send a request of the method `predict` and return the status and the message of the response."""
        status, _, message = self.send("POST", f"/v1/models/{model}:predict", body)
        return status, message


@contextlib.contextmanager
def running_server(bundle, *flags):
    """Run the server inside the `with` block; its first line of output contains the port."""
    command = [sys.executable, "-m", "tfx_finetune.serve", f"--bundle={bundle}", "--port=0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    try:
        yield Server(process, int(line.split(":")[2].split("/")[0]), bundle)
    finally:
        process.kill()
        process.wait()
