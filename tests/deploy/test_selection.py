"""Parsing of --constraints, and selection of the best file within the limits."""

import dataclasses

import pytest

from tests.helpers.small_data import complaint
from tfx_finetune.deploy import selection
from tfx_finetune.deploy.checks import VerificationResult

FLOAT = VerificationResult(
    "tflite", {}, 0.90, 0.0, 0.0, 0.0, 1e-6, 8.0, "", agreement=1.0, bytes=8_000_000, compressed_bytes=7_000_000,
    single_thread_latency=12.0, memory=30.0, total_ops=60, float_ops=60,
)  # fmt: skip
HALF = dataclasses.replace(FLOAT, format="tflite_float16", bytes=4_000_000, compressed_bytes=3_600_000)
INT8 = dataclasses.replace(
    FLOAT, format="tflite_int8", score=0.89, score_drop=0.01, bytes=2_000_000, compressed_bytes=1_500_000, latency=4.0,
    single_thread_latency=5.0, memory=12.0, agreement=0.97, float_ops=0,
)  # fmt: skip
BROKEN = dataclasses.replace(INT8, format="tflite_int16x8", bytes=1_000, failure_reason="loses too much")
KERAS = dataclasses.replace(FLOAT, format="keras", bytes=500, total_ops=None, float_ops=None, memory=None)
ALL = [KERAS, FLOAT, HALF, INT8, BROKEN]


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("size<10MB", "tflite_float16"),  # as good as the float file, and smaller
        ("size<3.9MB", "tflite_int8"),
        ("size<=2MB", "tflite_int8"),
        ("size<2MiB, score_drop<2%", "tflite_int8"),
        ("compressed_size<3.5MB", "tflite_int8"),
        ("latency<5ms", "tflite_int8"),
        ("single_thread_latency<0.006s", "tflite_int8"),
        ("memory<20MB", "tflite_int8"),
        ("score_drop<0.005", "tflite_float16"),
        ("agreement>99%", "tflite_float16"),
        ("score>=0.89, size<3e0MB", "tflite_int8"),
        ("difference<1e-5", "tflite_float16"),
    ],
)
def test_select_file_within_limits(text, format):
    """The verified TFLite file with the highest score is selected; of equal ones, the smallest."""
    assert selection.select_file(selection.parse_constraints(text), ALL).format == format


def test_no_constraints_select_no_file():
    """An empty --constraints selects no file."""
    assert selection.parse_constraints("") == ()
    assert selection.select_file((), ALL) is None


@pytest.mark.parametrize(
    ("text", "closest"),
    [
        ("size<1MB, score_drop<0.02", "tflite_int8 comes closest with size 2MB"),
        ("single_thread_latency<4ms, size<5MB", "tflite_int8 comes closest with single_thread_latency 5ms"),
        ("score_drop<0.5%, size<3.9MB", "tflite_float16 comes closest with size 4MB"),
    ],
)
def test_the_error_names_the_closest_file(text, closest):
    """The closest file has the smallest sum of relative excesses."""
    limits = selection.parse_constraints(text)
    assert selection.select_file(limits, ALL) is None
    error = selection.no_file_fits_error(limits, ALL)
    assert error.exit_status == 3
    assert closest in str(error)
    assert text in str(error)


def test_no_verified_tflite_file():
    """Without a verified TFLite file, the error asks for one."""
    limits = selection.parse_constraints("size<1GB")
    assert selection.select_file(limits, [KERAS, BROKEN]) is None
    assert "Add a tflite()" in str(selection.no_file_fits_error(limits, [KERAS, BROKEN]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise<2MB", "Did you mean size?"),
        ("size<2", "--constraints has a wrong unit of size: size<2. Expected: B, kB"),
        ("score_drop<2MB", "--constraints has a wrong unit of score_drop: score_drop<2MB. Expected: none, %."),
        ("size", "--constraints has an invalid limit"),
        ("size=2MB", "--constraints has an invalid limit"),
        ("size<2.2.2MB", "--constraints has an invalid limit"),
    ],
)
def test_invalid_constraints_are_refused(text, message):
    """The error names the invalid part and the valid values."""
    assert message in complaint(selection.parse_constraints, text)


def test_link_best_file(tmp_path):
    """model_best.tflite has the content of the selected file, also when the selection changes."""
    for name in ("a.tflite", "b.tflite"):
        (tmp_path / name).write_text(name)
        selection.link_best_file(tmp_path / name)
        assert (tmp_path / selection.BEST_FILE).read_text() == name
