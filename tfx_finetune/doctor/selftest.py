"""Self-test of TensorFlow and LiteRT in a separate process, because they may crash.

    python -m tfx_finetune.doctor.selftest

The command prints one JSON line for each of both.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tfx_finetune.core.errors import first_line
from tfx_finetune.doctor.diagnosis import Diagnosis

_TIMEOUT = 180
_MAX_DIFFERENCE = 1e-4  # of two float32 computations of numbers around 1


def start_selftest() -> subprocess.Popen:
    """Start the self-test, which takes as long as importing TensorFlow."""
    return subprocess.Popen(
        [sys.executable, "-m", "tfx_finetune.doctor.selftest"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_results(process: subprocess.Popen) -> dict[str, dict[str, Any]]:
    """Wait for the self-test, and return its results for `tensorflow` and `litert`; a failure has the key `error`."""
    try:
        output, errors = process.communicate(timeout=_TIMEOUT)
        failure = _describe_exit(process.returncode, errors)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        failure = f"no result within {_TIMEOUT} s"
    results: dict[str, dict[str, Any]] = {}
    for line in output.splitlines():
        with contextlib.suppress(ValueError):  # output of a library
            results |= json.loads(line)
    # The process ended in the first step without a result.
    for name in STEPS:
        results.setdefault(name, {"error": failure})
    return results


def make_diagnoses(results: dict[str, dict[str, Any]]) -> list[Diagnosis]:
    """Return the diagnoses of both steps; LiteRT needs a working TensorFlow."""
    tensorflow = diagnose_tensorflow(results["tensorflow"])
    return [tensorflow] if tensorflow.state == "broken" else [tensorflow, diagnose_litert(results["litert"])]


def diagnose_tensorflow(result: dict[str, Any]) -> Diagnosis:
    """Return the diagnosis of TensorFlow."""
    if "error" in result:
        hint = result.get("hint", "run pip install --upgrade --force-reinstall tfx_finetune in a new environment")
        return Diagnosis("TensorFlow", "broken", result["error"], hint)
    message = "{version}: device {device}, {threads} threads, {precision}, frozen parts run in {engine}"
    return Diagnosis("TensorFlow", "ok", message.format(**result))


def diagnose_litert(result: dict[str, Any]) -> Diagnosis:
    """Return the diagnosis of LiteRT."""
    hint = "run pip install --upgrade ai-edge-litert"
    if "error" in result:
        return Diagnosis("LiteRT", "broken", result["error"], hint)
    if result["difference"] > _MAX_DIFFERENCE:
        message = f"the outputs of a small network differ by {result['difference']:.2g} from those of TensorFlow"
        return Diagnosis("LiteRT", "broken", message, hint)
    message = f"a small network was converted and run, largest difference {result['difference']:.1e}"
    if not result["xnnpack"]:
        hint = "look for an ai-edge-litert for this processor: TFLite files run, but slowly"
        return Diagnosis("LiteRT", "warning", f"{message}, without XNNPACK", hint)
    return Diagnosis("LiteRT", "ok", f"{message}, by XNNPACK")


def _describe_exit(status: int, errors: str) -> str:
    if status == -signal.SIGILL:
        return "the process ended by SIGILL: this processor lacks instructions that TensorFlow needs, such as AVX"
    lines = errors.strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    return (
        f"the process ended by {signal.Signals(-status).name}{last}"
        if status < 0
        else f"the process ended with status {status}{last}"
    )


def _try_tensorflow() -> dict[str, Any]:
    # Another backend may not be installed, so that importing Keras would fail.
    if (backend := os.environ["KERAS_BACKEND"]) != "tensorflow":
        return {"error": f"KERAS_BACKEND sets another backend of Keras: {backend}", "hint": "unset KERAS_BACKEND"}
    import keras  # noqa: F401  (as every command does, before TensorFlow)
    import tensorflow as tf

    from tfx_finetune.core import hardware

    cuda = tf.sysconfig.get_build_info().get("cuda_version", "")
    return {"version": tf.__version__, "cuda": cuda} | vars(hardware.detect())


def _try_litert() -> dict[str, Any]:
    import keras
    import numpy as np
    import tensorflow as tf

    from tfx_finetune.core.quiet import capture_output
    from tfx_finetune.ops import litert

    layers = [
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2),
    ]
    network = keras.Sequential([keras.Input((16, 16, 3)), *layers])
    frozen = litert.freeze(lambda inputs: network(inputs, training=False), [tf.TensorSpec((1, 16, 16, 3), tf.float32)])
    content = litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen]))
    sample = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    with capture_output() as read_output:
        runner = litert.Interpreter(model_content=content)
        runner.allocate_tensors()
        xnnpack = "XNNPACK" in read_output()
    runner.set_tensor(runner.get_input_details()[0]["index"], sample)
    runner.invoke()
    outputs = runner.get_tensor(runner.get_output_details()[0]["index"])
    return {"difference": float(np.abs(outputs - network(sample).numpy()).max()), "xnnpack": xnnpack}


STEPS: dict[str, Callable[[], dict[str, Any]]] = {"tensorflow": _try_tensorflow, "litert": _try_litert}


def main() -> None:
    """Run both steps, and print the result of each."""
    from tfx_finetune.core.quiet import capture_output

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    for name, step in STEPS.items():
        try:
            with capture_output():
                result = step()
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {first_line(error)}"}
        print(json.dumps({name: result}), flush=True)


if __name__ == "__main__":
    main()
