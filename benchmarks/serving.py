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
    options = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
    bundle = Path(options.get("bundle", "runs/quickstart/bundle"))
    clients, seconds = int(options.get("clients", 64)), float(options.get("seconds", 60))
    rows = [
        "| clients | max batch size | responses per second | median, ms | 99th percentile, ms | CPU, ms per response "
        "| cores busy | responses | lost or wrong |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rates = []
    for client_count, max_batch_size, duration in (
        (1, 1, seconds / 4),
        (clients, 1, seconds / 4),
        (clients, 32, seconds),
    ):
        latencies, cpu, error_count = measure_load(
            bundle, max_batch_size, client_count, duration, swap=max_batch_size > 1
        )
        rates.append(len(latencies) / duration)
        median, p99 = np.percentile(latencies, [50, 99]) * 1000
        cpu_columns = f"{1000 * cpu / len(latencies):.1f} | {cpu / duration / hardware.detect().threads:.0%}"
        columns = f"{rates[-1]:.0f} | {median:.0f} | {p99:.0f} | {cpu_columns} | {len(latencies):,}"
        rows.append(f"| {client_count} | {max_batch_size} | {columns} | {error_count} |")
        if error_count:
            raise SystemExit("\n".join(rows))
    single_client_rate, unbatched_rate, batched_rate = rates
    rows.append(
        f"\nBatching gives {batched_rate / single_client_rate:.1f} times the responses of one client, "
        f"and {batched_rate / unbatched_rate:.1f} times "
        f"those of {clients} clients without batching. The last row includes a new version and a shutdown by SIGTERM."
    )
    record("serving", "The server under load", "\n".join(rows))


def measure_load(
    bundle: Path, max_batch_size: int, clients: int, seconds: float, swap: bool
) -> tuple[list[float], float, int]:
    """Return the seconds of every response, the CPU seconds of server and clients, and the count of wrong responses."""
    with tempfile.TemporaryDirectory() as folder:
        model_folder = Path(folder)
        shutil.copytree(bundle, model_folder / "1")
        command = [
            sys.executable,
            "-m",
            "tfx_finetune.serve",
            f"--bundle={model_folder}",
            "--port=0",
            f"--batch_size={max_batch_size}",
        ]
        server = subprocess.Popen([*command, "--drain_timeout=3"], stderr=subprocess.PIPE, text=True)
        assert server.stderr
        port = int(server.stderr.readline().split(":")[2].split("/")[0])
        times: list[float] = []
        errors: list[str] = []
        served_versions: set[str] = set()
        threads = [
            threading.Thread(target=run_client, args=(port, bundle, index, times, errors)) for index in range(clients)
        ]
        start_cpu = read_cpu_seconds(server.pid)
        for thread in threads:
            thread.start()
        time.sleep(seconds / 3)
        if swap:
            shutil.copytree(bundle, model_folder / ".2")
            (model_folder / ".2").rename(model_folder / "2")
        time.sleep(2 * seconds / 3)
        if swap:
            served_versions.add(fetch_version(port))
        latencies, cpu = list(times), read_cpu_seconds(server.pid) - start_cpu
        server.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        if server.wait(60) or (swap and served_versions != {"2"}):
            errors.append("the server did not end well, or the new version did not take over")
        return latencies, cpu, len(errors)


def read_cpu_seconds(server: int) -> float:
    """Return the CPU seconds of the server's process and of this process."""
    fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + time.process_time()


def run_client(port: int, bundle: Path, index: int, latencies: list[float], errors: list[str]) -> None:
    """Run one client until the server closes its connection."""
    golden_samples = json.loads((bundle / "golden" / "outputs.json").read_text())
    sample = golden_samples[index % len(golden_samples)]
    image = base64.b64encode((bundle / "golden" / sample["files"]["image"]).read_bytes()).decode()
    body = json.dumps({"instances": [{"b64": image}]})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while True:
        start = time.monotonic()
        try:
            connection.request("POST", "/v1/models/default:predict", body)
            response = connection.getresponse()
            message = json.loads(response.read())
            (row,) = message["predictions"]
            for output, scores in sample["outputs"].items():
                np.testing.assert_allclose(row[output], scores, atol=1e-3)
        except Exception as error:
            errors.append(str(error))
            return
        latencies.append(time.monotonic() - start)
        if response.headers["Connection"] == "close":
            return


def fetch_version(port: int) -> str:
    """Return the version that responds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/v1/models/default")
    return json.loads(connection.getresponse().read())["model_version_status"][0]["version"]


if __name__ == "__main__":
    main()
