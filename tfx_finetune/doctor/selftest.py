"""STATION: whether TensorFlow and LiteRT work here, tried in a process of its own, since they may end theirs.

    python -m tfx_finetune.doctor.selftest

prints a JSON line for each of the two.
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
_MAX_DIFFERENCE = 1e-4  # between two float32 computations of numbers around 1


def start_selftest() -> subprocess.Popen:
    """Begins the test, which takes as long as importing TensorFlow does."""
    return subprocess.Popen(
        [sys.executable, "-m", "tfx_finetune.doctor.selftest"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_results(process: subprocess.Popen) -> dict[str, dict[str, Any]]:
    """Waits for the test: what was found of `tensorflow` and of `litert`, as `error` where it failed."""
    try:
        said, errors = process.communicate(timeout=_TIMEOUT)
        end = _describe_exit(process.returncode, errors)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        end = f"no answer in {_TIMEOUT} s"
    found: dict[str, dict[str, Any]] = {}
    for line in said.splitlines():
        with contextlib.suppress(ValueError):  # what a library said on its way
            found |= json.loads(line)
    # It ended while it tried the first of which nothing is known.
    for name in STEPS:
        found.setdefault(name, {"error": end})
    return found


def make_diagnoses(found: dict[str, dict[str, Any]]) -> list[Diagnosis]:
    """What the steps say; LiteRT is fed by TensorFlow."""
    first = diagnose_tensorflow(found["tensorflow"])
    return [first] if first.state == "broken" else [first, diagnose_litert(found["litert"])]


def diagnose_tensorflow(found: dict[str, Any]) -> Diagnosis:
    """What the first step says."""
    if "error" in found:
        todo = found.get(
            "todo", "pip install --upgrade --force-reinstall tfx_finetune, in a new environment if need be"
        )
        return Diagnosis("TensorFlow", "broken", found["error"], todo)
    said = "{version}: device {device}, {threads} threads, {precision}, frozen parts run in {engine}"
    return Diagnosis("TensorFlow", "ok", said.format(**found))


def diagnose_litert(found: dict[str, Any]) -> Diagnosis:
    """What the second step says."""
    if "error" in found:
        return Diagnosis("LiteRT", "broken", found["error"], "pip install --upgrade ai-edge-litert")
    if found["difference"] > _MAX_DIFFERENCE:
        said = f"a small network's answers differ by {found['difference']:.2g} from TensorFlow's"
        return Diagnosis("LiteRT", "broken", said, "pip install --upgrade ai-edge-litert")
    said = f"a small network converted and run, largest difference {found['difference']:.1e}"
    if not found["xnnpack"]:
        todo = "TFLite files run, but slowly; is there an ai-edge-litert for this processor?"
        return Diagnosis("LiteRT", "warning", f"{said}, without XNNPACK", todo)
    return Diagnosis("LiteRT", "ok", f"{said}, by XNNPACK")


def _describe_exit(status: int, errors: str) -> str:
    if status == -signal.SIGILL:
        return "it ended by SIGILL: this processor lacks instructions, such as AVX, that its builds need"
    lines = errors.strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    return f"it ended by {signal.Signals(-status).name}{last}" if status < 0 else f"it ended with status {status}{last}"


def _try_tensorflow() -> dict[str, Any]:
    # With another one Keras may not even be imported.
    if (backend := os.environ["KERAS_BACKEND"]) != "tensorflow":
        return {"error": f"Keras computes with {backend}, by KERAS_BACKEND", "todo": "unset KERAS_BACKEND"}
    import keras  # noqa: F401  (as every command does, before TensorFlow)
    import tensorflow as tf

    from tfx_finetune.core import hardware

    found = hardware.detect()
    return {"version": tf.__version__, "cuda": tf.sysconfig.get_build_info().get("cuda_version", "")} | vars(found)


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
    with capture_output() as said:
        runner = litert.Interpreter(model_content=content)
        runner.allocate_tensors()
        xnnpack = "XNNPACK" in said()
    runner.set_tensor(runner.get_input_details()[0]["index"], sample)
    runner.invoke()
    answer = runner.get_tensor(runner.get_output_details()[0]["index"])
    return {"difference": float(np.abs(answer - network(sample).numpy()).max()), "xnnpack": xnnpack}


STEPS: dict[str, Callable[[], dict[str, Any]]] = {"tensorflow": _try_tensorflow, "litert": _try_litert}


def main() -> None:
    """Tries one after the other."""
    from tfx_finetune.core.quiet import capture_output

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    for name, step in STEPS.items():
        try:
            with capture_output():
                found = step()
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {first_line(error)}"}
        print(json.dumps({name: found}), flush=True)


if __name__ == "__main__":
    main()
