"""The server as its clients see it: TensorFlow Serving's messages, bad requests, a new version, and the end."""

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

from tests.helpers.commands import KINDS
from tests.helpers.servers import serving
from tfx_finetune.bundle.bundle import Bundle


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    """Version 1 of the small run."""
    versions = tmp_path_factory.mktemp("versions")
    shutil.copytree(trained.workdir / "bundle", versions / "1")
    flags = (
        "--poll_interval=0.1",
        "--drain_timeout=1",
        "--max_request_bytes=2000000",
        "--max_pixels=1000000",
        "--max_queue_size=64",
    )
    with serving(versions, *flags) as server:
        yield server


@pytest.fixture(scope="module")
def golden(trained):
    """The bundle's golden samples, base64, and their answers."""
    folder = trained.workdir / "bundle" / "golden"
    record = json.loads((folder / "outputs.json").read_text())
    names = [known["files"]["image"] for known in record]
    pictures = [{"b64": base64.b64encode((folder / name).read_bytes()).decode()} for name in names]
    return pictures, [known["outputs"]["label/scores"] for known in record]


# ---- the messages that TensorFlow Serving documents


def test_rows_and_columns(server, golden):
    """Row by row and column by column, by name and without, the golden answers."""
    pictures, scores = golden
    best = [KINDS[np.argmax(row)] for row in scores]
    for body in (
        {"instances": pictures},
        {"signature_name": "serving_default", "instances": [{"image": picture} for picture in pictures]},
    ):
        status, message = server.predict(body)
        assert status == 200, message
        rows = message["predictions"]
        np.testing.assert_allclose([row["label/scores"] for row in rows], scores, atol=1e-4)
        assert [row["label/best"] for row in rows] == best
        assert rows[0]["label/labels"] == list(KINDS)
    for inputs in (pictures, {"image": pictures}):
        status, message = server.predict({"inputs": inputs})
        assert status == 200, message
        np.testing.assert_allclose(message["outputs"]["label/scores"], scores, atol=1e-4)
        assert message["outputs"]["label/best"] == best


def test_prepared_samples(server, trained, golden):
    """Numbers in place of a file; one output has no name."""
    bundle = Bundle.open(trained.workdir / "bundle")
    pixels = [
        bundle.preprocess({"image": base64.b64decode(picture["b64"])})["image"][0].tolist() for picture in golden[0]
    ]
    status, message = server.predict({"signature_name": "tensor", "instances": pixels})
    assert status == 200, message
    np.testing.assert_allclose(message["predictions"], golden[1], atol=1e-4)
    _, message = server.predict({"signature_name": "tensor", "inputs": {"image": pixels}})
    np.testing.assert_allclose(message["outputs"], golden[1], atol=1e-4)


def test_classify(server, golden):
    """Labels with their scores, the best first; features that are shared stand in the context."""
    body = {"examples": [{"image": golden[0][0]}, {}], "context": {"image": golden[0][1]}}
    status, _, message = server.ask("POST", "/v1/models/default:classify", body)
    assert status == 200, message
    for found, scores in zip(message["result"], golden[1], strict=False):
        assert [name for name, _ in found] == [KINDS[i] for i in np.argsort(-np.array(scores))]
        np.testing.assert_allclose(sorted(score for _, score in found), sorted(scores), atol=1e-4)


def test_status_metadata_and_health(server, trained):
    """What is served, and what the SavedModel's own signatures say of it, which TensorFlow Serving would answer."""
    state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/default", "/v1/models/default/versions/1"):
        assert server.ask("GET", path)[2] == {"model_version_status": [state]}
    _, _, message = server.ask("GET", "/v1/models/default/versions/1/metadata")
    assert message["model_spec"] == {"name": "default", "signature_name": "", "version": "1"}
    found = message["metadata"]["signature_def"]["signature_def"]

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((trained.workdir / "bundle" / "saved_model" / "saved_model.pb").read_bytes())
    for name in ("serving_default", "tensor"):
        own = json_format.MessageToDict(saved.meta_graphs[0].signature_def[name], preserving_proto_field_name=True)
        assert found[name]["method_name"] == own["method_name"] == "tensorflow/serving/predict"
        for side in ("inputs", "outputs"):
            assert set(found[name][side]) == set(own[side])
            for key, known in own[side].items():
                mine = found[name][side][key]
                assert mine["dtype"] == known["dtype"]
                shapes = [[d["size"] for d in t["tensor_shape"]["dim"]] for t in (mine, known)]
                assert shapes[0] == shapes[1]

    assert server.ask("GET", "/healthz")[::2] == (200, {"status": "alive"})
    assert server.ask("GET", "/readyz")[::2] == (200, {"status": "ready"})


# ---- requests that are wrong


def bomb():
    """A PNG of a few bytes that says it is 60,000 x 60,000."""
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    made = b"\x89PNG\r\n\x1a\n"
    for kind, content in parts:
        made += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return {"b64": base64.b64encode(made).decode()}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"not json", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"instances": [1e999]}', 400, ""),
        (b"\xff\xfe", 400, "not JSON"),
        ([1, 2], 400, "a request is a JSON object"),
        ({}, 400, "either instances"),
        ({"instances": [{"b64": ""}], "inputs": []}, 400, "either instances"),
        ({"instances": []}, 400, "at least one"),
        ({"instances": "a"}, 400, "at least one"),
        ({"instance": [1]}, 400, "'instance' is unknown"),
        ({"instances": ["a.jpg"]}, 400, "base64"),
        ({"instances": [{"b64": "?"}]}, 400, "not base64"),
        ({"instances": [{"b64": 5}]}, 400, "base64"),
        ({"instances": [{"b64": "AAAA"}]}, 400, "sample 0 cannot be read: not a JPEG, PNG"),
        ({"instances": [{"sound": {"b64": "AAAA"}}]}, 400, "a sample has the inputs image"),
        ({"instances": [bomb()]}, 400, "60000 x 60000 pixels, at most 1000000"),
        ({"instances": [{"b64": "AAAA"}] * 65}, 400, "65 samples in one request; allowed: 64"),
        ({"signature_name": "train", "instances": [1]}, 400, "allowed: serving_default, tensor"),
        ({"signature_name": "tensor", "instances": [[[1, 2, 3]]]}, 400, "the shape (24, 24, 3)"),
        ({"signature_name": "tensor", "instances": [[1], [1, 2]]}, 400, "all of one shape"),
        ({"signature_name": "tensor", "instances": ["white"]}, 400, "nested lists of numbers"),
        (b'{"instances": "' + b"A" * 20_000_000 + b'"}', 413, "allowed: 2000000"),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:40],
)
def test_a_bad_request_is_told_why(server, golden, body, status, said):
    """4xx with one line of JSON, and the server goes on."""
    found, message = server.predict(body)
    assert found == status, message
    assert set(message) == {"error"}
    assert said in message["error"]
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
def test_what_is_not_there(server, method, path, status):
    """As TensorFlow Serving: an error in JSON."""
    found, _, message = server.ask(method, path, b"{}")
    assert found == status
    assert set(message) == {"error"}


def test_one_bad_sample_does_not_harm_the_requests_beside_it(server, golden):
    """Sixteen at once, every other one broken."""
    answers = [None] * 16

    def ask(position):
        sample = {"b64": "AAAA"} if position % 2 else golden[0][position % 8]
        answers[position] = server.predict({"instances": [sample]})

    threads = [threading.Thread(target=ask, args=(position,)) for position in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200, 400] * 8
    for position in range(0, 16, 2):
        scores = answers[position][1]["predictions"][0]["label/scores"]
        np.testing.assert_allclose(scores, golden[1][position % 8], atol=1e-4)


def test_more_than_there_is_room_for_is_refused_with_503(server, golden):
    """Two requests of forty samples each where sixty-four may be in work: one of them is told to come again."""
    held = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    # A request that has not ended holds its room.
    body = json.dumps({"instances": golden[0][:1]}).encode()
    slow = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(64)]
    for connection in slow:
        connection.putrequest("POST", "/v1/models/default:predict")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:-1])
    until(lambda: metric(server, "waiting_samples") == 64)
    status, headers, message = server.ask("POST", "/v1/models/default:predict", body, held)
    assert status == 503
    assert headers["Retry-After"] == "1"
    assert "at most 64" in message["error"]
    for connection in slow:
        connection.send(body[-1:])
        assert connection.getresponse().status == 200
    assert server.predict(body)[0] == 200
    assert metric(server, "waiting_samples") == 0


# ---- versions, metrics and the end: in this order, for the server does not come back


def metric(server, name):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"tfx_finetune_{name} ")), None)


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


@contextlib.contextmanager
def clients(server, golden, count=8):
    """Asks on and on over connections that are kept, until told to close; yields [(status, scores, expected)]."""
    found, stop = [], threading.Event()

    def ask(number):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        turn = number
        while not stop.is_set():
            body = json.dumps({"instances": golden[0][turn % 8 : turn % 8 + 1]})
            status, headers, message = server.ask("POST", "/v1/models/default:predict", body.encode(), connection)
            found.append((status, message, golden[1][turn % 8]))
            if headers["Connection"] == "close":
                return
            turn += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for status, message, scores in found:
        assert status == 200, message
        np.testing.assert_allclose(message["predictions"][0]["label/scores"], scores, atol=1e-4)


def test_a_new_version_takes_over_without_a_request_lost(server, golden):
    """One that is broken does not; the last that worked goes on."""
    with clients(server, golden) as found:
        broken = server.versions / ".broken"
        shutil.copytree(server.versions / "1", broken)
        # A bundle whose checksums hold, of a model that answers otherwise.
        outputs = json.loads((broken / "golden" / "outputs.json").read_text())
        first = outputs[0]["outputs"]
        first["label/scores"] = first["label/scores"][::-1]
        (broken / "golden" / "outputs.json").write_text(json.dumps(outputs))
        manifest = json.loads((broken / "manifest.json").read_text())
        del manifest["sha256"]["golden/outputs.json"]
        (broken / "manifest.json").write_text(json.dumps(manifest))
        broken.rename(server.versions / "2")
        until(lambda: metric(server, 'loads_total{result="refused"}') == 1)
        assert metric(server, "version") == 1

        shutil.copytree(server.versions / "1", server.versions / ".next")
        (server.versions / ".next").rename(server.versions / "3")
        until(lambda: metric(server, "version") == 3)
        seen = len(found)
        until(lambda: len(found) > seen + 20)
    assert server.ask("GET", "/v1/models/default/versions/1")[0] == 404
    assert server.ask("GET", "/v1/models/default/versions/3")[0] == 200
    assert metric(server, "batch_samples_sum") > metric(server, "batch_samples_count") > 0


def test_the_end_loses_no_request(server, golden):
    """At SIGTERM it is not ready any more, tells every client to go elsewhere, answers what is asked, and ends well."""
    with clients(server, golden) as found:
        until(lambda: len(found) > 50)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.ask("GET", "/readyz")[0] == 503, 1)
        assert server.process.wait(60) == 0
    assert "every request answered" in server.process.stderr.read()
