"""Measure the server under load: 64 clients for a minute, over a new version and a shutdown, with and without batching.

    python benchmarks/serving.py [--bundle=runs/quickstart/bundle] [--clients=64] [--seconds=60]

Every client keeps one connection, requests one golden image again and again, and compares the response with the golden
output. Clients and server share this machine: compare ratios. Fails if a response is lost or wrong.
"""

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from results import record

from tfx_finetune.core import hardware


def main() -> None:
    """Run the benchmark."""
    given = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
    bundle = Path(given.get("bundle", "runs/quickstart/bundle"))
    clients, seconds = int(given.get("clients", 64)), float(given.get("seconds", 60))
    rows = [
        "| clients | max batch size | responses per second | median, ms | 99th percentile, ms | CPU, ms per response "
        "| cores busy | responses | lost or wrong |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rates = []
    for many, most, duration in ((1, 1, seconds / 4), (clients, 1, seconds / 4), (clients, 32, seconds)):
        times, cpu, wrong = load(bundle, most, many, duration, swap=most > 1)
        rates.append(len(times) / duration)
        middle, late = np.percentile(times, [50, 99]) * 1000
        busy = f"{1000 * cpu / len(times):.1f} | {cpu / duration / hardware.detect().threads:.0%}"
        numbers = f"{rates[-1]:.0f} | {middle:.0f} | {late:.0f} | {busy} | {len(times):,}"
        rows.append(f"| {many} | {most} | {numbers} | {wrong} |")
        if wrong:
            raise SystemExit("\n".join(rows))
    one, alone, together = rates
    rows.append(
        f"\nBatching gives {together / one:.1f} times the responses of one client, and {together / alone:.1f} times "
        f"those of {clients} clients without batching. The last row includes a new version and a shutdown by SIGTERM."
    )
    record("serving", "The server under load", "\n".join(rows))


def load(bundle: Path, most: int, clients: int, seconds: float, swap: bool) -> tuple[list[float], float, int]:
    """Return the seconds of every response, the CPU seconds of server and clients, and the count of wrong responses."""
    with tempfile.TemporaryDirectory() as folder:
        versions = Path(folder)
        shutil.copytree(bundle, versions / "1")
        command = [
            sys.executable,
            "-m",
            "tfx_finetune.serve",
            f"--bundle={versions}",
            "--port=0",
            f"--batch_size={most}",
        ]
        server = subprocess.Popen([*command, "--drain_timeout=3"], stderr=subprocess.PIPE, text=True)
        assert server.stderr
        port = int(server.stderr.readline().split(":")[2].split("/")[0])
        times: list[float] = []
        wrong: list[str] = []
        seen: set[str] = set()
        threads = [threading.Thread(target=ask, args=(port, bundle, number, times, wrong)) for number in range(clients)]
        before = spent(server.pid)
        for thread in threads:
            thread.start()
        time.sleep(seconds / 3)
        if swap:
            shutil.copytree(bundle, versions / ".2")
            (versions / ".2").rename(versions / "2")
        time.sleep(2 * seconds / 3)
        if swap:
            seen.add(version(port))
        counted, cpu = list(times), spent(server.pid) - before
        server.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        if server.wait(60) or (swap and seen != {"2"}):
            wrong.append("the server did not end well, or the new version did not take over")
        return counted, cpu, len(wrong)


def spent(server: int) -> float:
    """Return the CPU seconds of the server's process and of this process."""
    fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + time.process_time()


def ask(port: int, bundle: Path, number: int, times: list[float], wrong: list[str]) -> None:
    """Run one client until the server closes its connection."""
    known = json.loads((bundle / "golden" / "outputs.json").read_text())
    sample = known[number % len(known)]
    picture = base64.b64encode((bundle / "golden" / sample["files"]["image"]).read_bytes()).decode()
    body = json.dumps({"instances": [{"b64": picture}]})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while True:
        started = time.monotonic()
        try:
            connection.request("POST", "/v1/models/default:predict", body)
            response = connection.getresponse()
            message = json.loads(response.read())
            (row,) = message["predictions"]
            for output, scores in sample["outputs"].items():
                np.testing.assert_allclose(row[output], scores, atol=1e-3)
        except Exception as error:
            wrong.append(str(error))
            return
        times.append(time.monotonic() - started)
        if response.headers["Connection"] == "close":
            return


def version(port: int) -> str:
    """Return the version that responds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/v1/models/default")
    return json.loads(connection.getresponse().read())["model_version_status"][0]["version"]


if __name__ == "__main__":
    main()
