"""Prediction with TFLite files."""

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.core import hardware
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.ops import litert
from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.deployment import LoadedModel


def load(path: Path) -> LoadedModel:
    """Open a TFLite file of this package.

    Raises:
        UserError: If it is not a TFLite file, was written by another program, or needs operators that are not builtin.
    """
    try:
        return LoadedModel(make_predict(path.read_bytes()))
    except (ValueError, RuntimeError, OSError) as error:
        message = "The file is not a TFLite file of this package that runs on this machine"
        raise UserError(message, got=f"{path} ({first_line(error)})") from None


def make_predict(content: bytes) -> PredictFn:
    """Return the predict function of a TFLite file.

    Args:
        content: Content of the file.
    """
    threads = hardware.detect().threads
    runner = litert.open_interpreter(content, threads).get_signature_runner("serving_default")
    input_details, output_details = runner.get_input_details(), runner.get_output_details()

    # The batch size of a file is 1. Several samples run in parallel, each on one thread, which is twice as fast as one
    # after the other on two threads.
    @functools.cache
    def make_pool() -> tuple[ThreadPoolExecutor, list[Any]]:
        runners = [litert.open_interpreter(content, 1).get_signature_runner("serving_default") for _ in range(threads)]
        return ThreadPoolExecutor(threads), runners

    def predict_sample(runner: Any, inputs: Batch, index: int) -> Batch:
        sample = {
            name: _quantize_input(values[index : index + 1], input_details[name]) for name, values in inputs.items()
        }
        return {name: _dequantize_output(value, output_details[name]) for name, value in runner(**sample).items()}

    def predict(inputs: Batch) -> Batch:
        count = len(next(iter(inputs.values())))
        if count == 1 or threads == 1:
            outputs = [predict_sample(runner, inputs, index) for index in range(count)]
        else:
            executor, runners = make_pool()

            def predict_every_nth(start: int) -> list[Batch]:
                return [predict_sample(runners[start], inputs, index) for index in range(start, count, threads)]

            outputs = [Batch()] * count
            for start, thread_outputs in enumerate(executor.map(predict_every_nth, range(threads))):
                outputs[start::threads] = thread_outputs
        return {name: np.concatenate([sample[name] for sample in outputs]) for name in outputs[0]}

    return predict


def _quantize_input(values: Any, detail: dict[str, Any]) -> np.ndarray:
    """Convert real values to the input type of a file; pixels stay unchanged for a scale of 1 and a zero point of 0."""
    scale, zero_point = detail["quantization"]
    if not scale:
        return np.asarray(values).astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    quantized = np.round(np.asarray(values, np.float32) / scale) + zero_point
    return np.clip(quantized, limits.min, limits.max).astype(detail["dtype"])


def _dequantize_output(values: Any, detail: dict[str, Any]) -> np.ndarray:
    """Convert the output of a file to real values."""
    scale, zero_point = detail["quantization"]
    return np.float32(scale) * (np.asarray(values, np.float32) - zero_point) if scale else np.array(values)
