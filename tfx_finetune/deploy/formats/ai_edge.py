"""TFLite by AI Edge Quantizer: recipes that TensorFlow's own converter lacks, such as weights of four bits."""

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
from tfx_finetune.ops import litert
from tfx_finetune.types.components import EXPORTS
from tfx_finetune.types.deployment import Export, Servable

# Not static_wi8_ai16: LiteRT refuses its additions, whose scales are no powers of two. tflite(quantize='int16x8') runs.
Recipe = Literal[
    "dynamic_wi8_afp32",
    "dynamic_wi4_afp32",
    "weight_only_wi8_afp32",
    "weight_only_wi4_afp32",
    "static_wi8_ai8",
]


@EXPORTS.register
def ai_edge(recipe: Recipe = "dynamic_wi8_afp32") -> Export:
    """A TFLite file, quantized by AI Edge Quantizer (pip install 'tfx_finetune[quantizer]').

    It takes what `tflite()` takes, such as a float32 picture of values 0 to 255, gives float32 scores, whatever is
    inside, and carries the same metadata.

    Args:
        recipe: One of the library's own, which name the bits of weights (`wi`) and activations (`ai`, or `afp32` for
            float32): `dynamic`, rounded as they come; `weight_only`, computed in float; `static`, calibrated on
            training samples.
    """
    require_packages("quantizer", "ai_edge_quantizer")
    name = f"ai_edge_{recipe}"

    def write(servable: Servable, path: Path) -> None:
        content = tflite.convert(servable, name, "none", "float32", "float32")
        try:
            content = _quantize(content, recipe, servable)
        except (ValueError, RuntimeError) as error:
            todo = "leave this export out, or take another recipe"
            raise UserError(
                f"AI Edge Quantizer cannot take this model ({name})", got=first_line(error), hint=todo
            ) from None
        with files.write_atomically(path) as draft:
            draft.write_bytes(tflite.add_metadata(servable, content))

    # As for tflite(): what is judged by the score, the tolerance only catches what is another model altogether.
    tolerance = 0.5 if recipe == "static_wi8_ai8" or "wi4" in recipe else 0.3
    # Four bits are too few for the values of a cluster, and are not promised any.
    kernels = None if "wi4" in recipe else lambda path: litert.read_kernels(path.read_bytes())
    return Export(name, f"model_{recipe}.tflite", write, tflite.load, tolerance, True, kernels)


def _quantize(content: bytes, name: str, servable: Servable) -> bytes:
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    with capture_output(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Calibration keeps all tensors of an interpreter, which warns of the memory.
        work = quantizer.Quantizer(content, getattr(recipe, name)())
        if not work.need_calibration:
            return bytes(work.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)
        for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
            work.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
        ranges = _calibrate_ranges(content, work.get_quantization_recipe(), servable)
        return bytes(work.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model)


def _calibrate_ranges(content: bytes, recipe: Sequence[dict[str, Any]], servable: Servable) -> Any:
    """Smallest and largest value of every tensor.

    The library's own average of the samples' ranges would cut off what is rare, pixels of 0 and 255 among it.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(list(recipe))
    work = calibrator.Calibrator(
        content, num_threads=hardware.detect().threads, qsv_update_func=qsv_utils.min_max_update
    )
    samples = list(tflite.iter_calibration_samples(servable))
    # Its bar cannot be switched off, and in a notebook Python's streams are not those that quiet() keeps.
    with contextlib.redirect_stderr(io.StringIO()):
        work.calibrate({"serving_default": samples}, manager)
    return work.get_model_qsvs()
