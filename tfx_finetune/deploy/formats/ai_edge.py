"""TFLite quantized by AI Edge Quantizer, with recipes that the TensorFlow converter lacks, such as 4-bit weights."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tfx_finetune.core import files, hardware
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.core.extras import require_packages
from tfx_finetune.core.quiet import capture_output
from tfx_finetune.deploy.formats import tflite
from tfx_finetune.deploy.formats.tflite_runtime import load
from tfx_finetune.ops import litert
from tfx_finetune.types.components import EXPORTS
from tfx_finetune.types.deployment import Export, Servable

# static_wi8_ai16 is left out: LiteRT refuses its additions, because their scales are not powers of two.
# tflite(quantize='int16x8') runs.
Recipe = Literal[
    "dynamic_wi8_afp32",
    "dynamic_wi4_afp32",
    "weight_only_wi8_afp32",
    "weight_only_wi4_afp32",
    "static_wi8_ai8",
]


@EXPORTS.register
def ai_edge(recipe: Recipe = "dynamic_wi8_afp32") -> Export:
    """TFLite file quantized by AI Edge Quantizer (pip install 'tfx_finetune[quantizer]').

    Inputs, outputs and metadata are those of `tflite()`: float32 images with pixel values 0 to 255, float32 scores.

    Args:
        recipe: Recipe of the library with the bits of weights (`wi`) and activations (`ai`, or `afp32` for float32):
            `dynamic` quantizes activations at run time, `weight_only` computes in float, `static` is calibrated on
            training samples. Default `dynamic_wi8_afp32`.
    """
    require_packages("quantizer", "ai_edge_quantizer")
    name = f"ai_edge_{recipe}"

    def write(servable: Servable, path: Path) -> None:
        content = tflite.convert(servable, name, "none", "float32", "float32")
        try:
            content = _quantize(content, recipe, servable)
        except (ValueError, RuntimeError) as error:
            hint = "leave out this export, or use another recipe"
            raise UserError(
                f"AI Edge Quantizer cannot convert this model to {name}", got=first_line(error), hint=hint
            ) from None
        with files.write_atomically(path) as draft:
            draft.write_bytes(tflite.add_metadata(servable, content))

    # As for tflite(): the gate on the score decides, and the tolerance only finds a file of another model.
    tolerance = 0.5 if recipe == "static_wi8_ai8" or "wi4" in recipe else 0.3
    # 4-bit rounding changes the values of clusters, so that these kernels are not checked.
    read_kernels = None if "wi4" in recipe else lambda path: litert.read_kernels(path.read_bytes())
    return Export(name, f"model_{recipe}.tflite", write, load, tolerance, True, read_kernels)


def _quantize(content: bytes, recipe_name: str, servable: Servable) -> bytes:
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    with capture_output(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Calibration keeps all tensors of an interpreter, which warns about the memory.
        model_quantizer = quantizer.Quantizer(content, getattr(recipe, recipe_name)())
        if not model_quantizer.need_calibration:
            return bytes(
                model_quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model
            )
        for io in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
            model_quantizer.update_quantization_recipe(".*", io, algorithm_key=AlgorithmName.NO_QUANTIZE)
        ranges = _calibrate_ranges(content, model_quantizer.get_quantization_recipe(), servable)
        return bytes(
            model_quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model
        )


def _calibrate_ranges(content: bytes, recipe: Sequence[dict[str, Any]], servable: Servable) -> Any:
    """Return the minimum and maximum of every tensor.

    The library's default, the average range of the samples, would clip rare values such as pixels of 0 and 255.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(list(recipe))
    range_calibrator = calibrator.Calibrator(
        content, num_threads=hardware.detect().threads, qsv_update_func=qsv_utils.min_max_update
    )
    samples = list(tflite.iter_calibration_samples(servable))
    # The progress bar has no switch, and capture_output() does not capture Python's streams in a notebook.
    with contextlib.redirect_stderr(io.StringIO()):
        range_calibrator.calibrate({"serving_default": samples}, manager)
    return range_calibrator.get_model_qsvs()
