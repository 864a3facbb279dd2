"""End-to-end tests of the server: TensorFlow Serving's messages, invalid requests, new versions and shutdown."""

import base64
import contextlib
import http.client
import json
import shutil
import signal
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from tests.helpers.commands import SHAPE_NAMES
from tests.helpers.servers import running_server
from tfx_finetune.bundle.bundle import Bundle


@pytest.fixture(scope="module")
def server(trained_run, tmp_path_factory):
    """A server of version 1, the bundle of the small run."""
    versions = tmp_path_factory.mktemp("versions")
    shutil.copytree(trained_run.workdir / "bundle", versions / "1")
    flags = (
        "--poll_interval=0.1",
        "--drain_timeout=1",
        "--max_request_bytes=2000000",
        "--max_pixels=1000000",
        "--max_queue_size=64",
    )
    with running_server(versions, *flags) as server:
        yield server


@pytest.fixture(scope="module")
def golden(trained_run):
    """The golden samples of the bundle in base64 and their scores."""
    folder = trained_run.workdir / "bundle" / "golden"
    record = json.loads((folder / "outputs.json").read_text())
    names = [entry["files"]["image"] for entry in record]
    images = [{"b64": base64.b64encode((folder / name).read_bytes()).decode()} for name in names]
    return images, [entry["outputs"]["label/scores"] for entry in record]


# ---- messages of TensorFlow Serving


def test_row_and_column_format(server, golden):
    """Both formats, with and without input names, return the golden scores."""
    images, scores = golden
    best = [SHAPE_NAMES[np.argmax(row)] for row in scores]
    for body in (
        {"instances": images},
        {"signature_name": "serving_default", "instances": [{"image": image} for image in images]},
    ):
        status, message = server.predict(body)
        assert status == 200, message
        rows = message["predictions"]
        np.testing.assert_allclose([row["label/scores"] for row in rows], scores, atol=1e-4)
        assert [row["label/best"] for row in rows] == best
        assert rows[0]["label/labels"] == list(SHAPE_NAMES)
    for inputs in (images, {"image": images}):
        status, message = server.predict({"inputs": inputs})
        assert status == 200, message
        np.testing.assert_allclose(message["outputs"]["label/scores"], scores, atol=1e-4)
        assert message["outputs"]["label/best"] == best


def test_preprocessed_samples(server, trained_run, golden):
    """The signature `tensor` takes pixels; a single output has no name."""
    bundle = Bundle.open(trained_run.workdir / "bundle")
    pixels = [bundle.preprocess({"image": base64.b64decode(image["b64"])})["image"][0].tolist() for image in golden[0]]
    status, message = server.predict({"signature_name": "tensor", "instances": pixels})
    assert status == 200, message
    np.testing.assert_allclose(message["predictions"], golden[1], atol=1e-4)
    _, message = server.predict({"signature_name": "tensor", "inputs": {"image": pixels}})
    np.testing.assert_allclose(message["outputs"], golden[1], atol=1e-4)


def test_classify(server, golden):
    """The result has labels with scores, highest first; the context contains shared inputs."""
    body = {"examples": [{"image": golden[0][0]}, {}], "context": {"image": golden[0][1]}}
    status, _, message = server.send("POST", "/v1/models/default:classify", body)
    assert status == 200, message
    for result, scores in zip(message["result"], golden[1], strict=False):
        assert [name for name, _ in result] == [SHAPE_NAMES[i] for i in np.argsort(-np.array(scores))]
        np.testing.assert_allclose(sorted(score for _, score in result), sorted(scores), atol=1e-4)


def test_status_metadata_and_health(server, trained_run):
    """Status and metadata equal those of TensorFlow Serving, which the signatures of the SavedModel define."""
    state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/default", "/v1/models/default/versions/1"):
        assert server.send("GET", path)[2] == {"model_version_status": [state]}
    _, _, message = server.send("GET", "/v1/models/default/versions/1/metadata")
    assert message["model_spec"] == {"name": "default", "signature_name": "", "version": "1"}
    signatures = message["metadata"]["signature_def"]["signature_def"]

    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((trained_run.workdir / "bundle" / "saved_model" / "saved_model.pb").read_bytes())
    for name in ("serving_default", "tensor"):
        signature_def = saved_model.meta_graphs[0].signature_def[name]
        expected = json_format.MessageToDict(signature_def, preserving_proto_field_name=True)
        assert signatures[name]["method_name"] == expected["method_name"] == "tensorflow/serving/predict"
        for side in ("inputs", "outputs"):
            assert set(signatures[name][side]) == set(expected[side])
            for key, expected_info in expected[side].items():
                info = signatures[name][side][key]
                assert info["dtype"] == expected_info["dtype"]
                shapes = [[d["size"] for d in t["tensor_shape"]["dim"]] for t in (info, expected_info)]
                assert shapes[0] == shapes[1]

    assert server.send("GET", "/healthz")[::2] == (200, {"status": "alive"})
    assert server.send("GET", "/readyz")[::2] == (200, {"status": "ready"})


# ---- invalid requests


def make_decompression_bomb():
    """A small PNG file whose header declares 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n"
    for kind, content in parts:
        png += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return {"b64": base64.b64encode(png).decode()}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"not json", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"instances": [1e999]}', 400, ""),
        (b"\xff\xfe", 400, "not JSON"),
        ([1, 2], 400, "A request is a JSON object: [1, 2]."),
        ({}, 400, "A request has either instances (row format) or inputs (column format)."),
        (
            {"instances": [{"b64": ""}], "inputs": []},
            400,
            "A request has either instances (row format) or inputs (column format).",
        ),
        ({"instances": []}, 400, "instances is not a list with at least one item"),
        ({"instances": "a"}, 400, "instances is not a list with at least one item"),
        ({"instance": [1]}, 400, "Unknown key: 'instance'. Expected: signature_name, instances, inputs."),
        ({"instances": ["a.jpg"]}, 400, "base64"),
        ({"instances": [{"b64": "?"}]}, 400, "not base64"),
        ({"instances": [{"b64": 5}]}, 400, "base64"),
        ({"instances": [{"b64": "AAAA"}]}, 400, "Cannot read sample 0: not a JPEG, PNG"),
        ({"instances": [{"sound": {"b64": "AAAA"}}]}, 400, "A sample has invalid inputs: ['sound']. Expected: image."),
        ({"instances": [make_decompression_bomb()]}, 400, "60000 x 60000 pixels, at most 1000000"),
        ({"instances": [{"b64": "AAAA"}] * 65}, 400, "Too many samples in one request: 65. Expected: at most 64."),
        (
            {"signature_name": "train", "instances": [1]},
            400,
            "Unknown signature_name: 'train'. Expected: serving_default, tensor.",
        ),
        (
            {"signature_name": "tensor", "instances": [[[1, 2, 3]]]},
            400,
            "Invalid shape of image: (1, 3). Expected: (24, 24, 3).",
        ),
        ({"signature_name": "tensor", "instances": [[1], [1, 2]]}, 400, "nested lists of numbers with one shape"),
        ({"signature_name": "tensor", "instances": ["white"]}, 400, "nested lists of numbers"),
        (b'{"instances": "' + b"A" * 20_000_000 + b'"}', 413, "Expected: at most 2000000."),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:40],
)
def test_invalid_request_returns_the_reason(server, golden, body, status, text):
    """The status is 4xx, the reason is one line of JSON, and the server continues."""
    response_status, message = server.predict(body)
    assert response_status == status, message
    assert set(message) == {"error"}
    assert text in message["error"]
    assert "\n" not in message["error"]
    assert len(message["error"]) < 300
    assert server.predict({"instances": golden[0][:1]})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/v1/models/default/versions/9:predict", 404),
        ("POST", "/v1/models/default:regress", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/etc/passwd", 404),
        ("PUT", "/v1/models/default:predict", 405),
    ],
)
def test_unknown_urls_return_an_error(server, method, path, status):
    """The error is JSON, as in TensorFlow Serving."""
    response_status, _, message = server.send(method, path, b"{}")
    assert response_status == status
    assert set(message) == {"error"}


def test_invalid_sample_does_not_affect_concurrent_requests(server, golden):
    """Every other one of 16 concurrent requests is invalid."""
    responses = [None] * 16

    def send(index):
        sample = {"b64": "AAAA"} if index % 2 else golden[0][index % 8]
        responses[index] = server.predict({"instances": [sample]})

    threads = [threading.Thread(target=send, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in responses] == [200, 400] * 8
    for index in range(0, 16, 2):
        scores = responses[index][1]["predictions"][0]["label/scores"]
        np.testing.assert_allclose(scores, golden[1][index % 8], atol=1e-4)


def test_requests_above_the_queue_size_are_rejected_with_503(server, golden):
    """With 64 requests in progress, another one is asked to retry; afterwards requests are accepted again."""
    extra_connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    # An incomplete request is in progress until its last byte arrives.
    body = json.dumps({"instances": golden[0][:1]}).encode()
    connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(64)]
    for connection in connections:
        connection.putrequest("POST", "/v1/models/default:predict")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:-1])
    wait_until(lambda: read_metric(server, "waiting_samples") == 64)
    status, headers, message = server.send("POST", "/v1/models/default:predict", body, extra_connection)
    assert status == 503
    assert headers["Retry-After"] == "1"
    assert "at most 64" in message["error"]
    for connection in connections:
        connection.send(body[-1:])
        assert connection.getresponse().status == 200
    assert server.predict(body)[0] == 200
    assert read_metric(server, "waiting_samples") == 0


# ---- versions, metrics and shutdown: in this order, because the last test stops the server


def read_metric(server, name):
    """The value of a metric of the server; None if it has no value yet."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"tfx_finetune_{name} ")), None)


def wait_until(condition, seconds=60):
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.05)


@contextlib.contextmanager
def running_clients(server, golden, count=8):
    """Send requests over persistent connections inside the `with` block; yield [(status, message, scores)]."""
    responses, stop = [], threading.Event()

    def send_requests(number):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        index = number
        while not stop.is_set():
            body = json.dumps({"instances": golden[0][index % 8 : index % 8 + 1]})
            status, headers, message = server.send("POST", "/v1/models/default:predict", body.encode(), connection)
            responses.append((status, message, golden[1][index % 8]))
            if headers["Connection"] == "close":
                return
            index += 1

    threads = [threading.Thread(target=send_requests, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield responses
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for status, message, scores in responses:
        assert status == 200, message
        np.testing.assert_allclose(message["predictions"][0]["label/scores"], scores, atol=1e-4)


def test_new_version_replaces_the_old_one_without_lost_requests(server, golden):
    """A version with wrong outputs is refused, and the previous version continues."""
    with running_clients(server, golden) as responses:
        broken = server.versions / ".broken"
        shutil.copytree(server.versions / "1", broken)
        # The checksums are valid, but the golden outputs are not those of the model.
        outputs = json.loads((broken / "golden" / "outputs.json").read_text())
        first = outputs[0]["outputs"]
        first["label/scores"] = first["label/scores"][::-1]
        (broken / "golden" / "outputs.json").write_text(json.dumps(outputs))
        manifest = json.loads((broken / "manifest.json").read_text())
        del manifest["sha256"]["golden/outputs.json"]
        (broken / "manifest.json").write_text(json.dumps(manifest))
        broken.rename(server.versions / "2")
        wait_until(lambda: read_metric(server, 'loads_total{result="refused"}') == 1)
        assert read_metric(server, "version") == 1

        shutil.copytree(server.versions / "1", server.versions / ".next")
        (server.versions / ".next").rename(server.versions / "3")
        wait_until(lambda: read_metric(server, "version") == 3)
        count = len(responses)
        wait_until(lambda: len(responses) > count + 20)
    assert server.send("GET", "/v1/models/default/versions/1")[0] == 404
    assert server.send("GET", "/v1/models/default/versions/3")[0] == 200
    assert read_metric(server, "batch_samples_sum") > read_metric(server, "batch_samples_count") > 0


def test_shutdown_answers_all_requests(server, golden):
    """On SIGTERM /readyz returns 503, clients are disconnected after their response, and the exit status is 0."""
    with running_clients(server, golden) as responses:
        wait_until(lambda: len(responses) > 50)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.send("GET", "/readyz")[0] == 503, 1)
        assert server.process.wait(60) == 0
    assert "all requests were answered" in server.process.stderr.read()
