"""The server as a process, for the tests that are its clients."""

import contextlib
import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Server(NamedTuple):
    """A running server, and the folder whose numbered bundles it serves."""

    process: subprocess.Popen
    port: int
    versions: Path

    def ask(self, method, path, body=b"", connection=None):
        """Status, headers and message of an answer."""
        connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read())

    def predict(self, body, model="default"):
        status, _, message = self.ask("POST", f"/v1/models/{model}:predict", body)
        return status, message


@contextlib.contextmanager
def serving(bundle, *flags):
    """Runs the command until the block ends; its port is read from the line that it prints."""
    command = [sys.executable, "-m", "tfx_finetune.serve", f"--bundle={bundle}", "--port=0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    try:
        yield Server(process, int(line.split(":")[2].split("/")[0]), bundle)
    finally:
        process.kill()
        process.wait()
