"""TFLite (LiteRT) files, for phones, small computers and browsers."""

import dataclasses
import functools
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.deploy.formats import selective_quantization, tflite_metadata
from tfx_finetune.deploy.formats.tflite_runtime import load, make_predict
from tfx_finetune.ops import litert
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import EXPORTS
from tfx_finetune.types.deployment import Export, Servable

Quantize = Literal["none", "float16", "dynamic", "int8", "int16x8"]
Inputs = Literal["auto", "uint8", "int8", "float32"]
Outputs = Literal["float32", "uint8", "int8"]
FreezeFn = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]

# Maximum difference of a probability. float16 keeps 11 bits of each weight. For 8-bit kinds, the gate on the score
# decides, and the tolerance only finds a file of another model.
_TOLERANCES = {"none": 1e-4, "float16": 2e-2, "dynamic": 0.3, "int8": 0.5, "int16x8": 0.3}
_OPS = tf.lite.OpsSet
# Samples on which the quantization errors of operators are measured; so many show which errors are large.
_NUM_DEBUG_SAMPLES = 16
# Operators without a kernel for 16 x 8 bits, such as hard-swish, stay float.
_INTEGER_OPS = {
    "int8": [_OPS.TFLITE_BUILTINS_INT8],
    "int16x8": [_OPS.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8, _OPS.TFLITE_BUILTINS],
}


@EXPORTS.register
def tflite(
    quantize: Quantize = "none", inputs: Inputs = "auto", outputs: Outputs = "float32", selective: bool = False
) -> Export:
    """TFLite file of builtin operators with a batch size of 1.

    The file contains the labels and name, version, author and license from `--metadata` as TFLite metadata.

    Args:
        quantize: `none`; `float16` or `dynamic` (8-bit) weights; `int8` weights and activations, calibrated on training
            samples (Jacob et al., arXiv 1712.05877); or `int16x8`, int8 weights and int16 activations, which is more
            exact and slower, with operators that lack int16 in float. Default `none`.
        inputs: Dtype of an image input with values 0 to 255. `auto` is `uint8` for int8 files that take only images,
            otherwise `float32`. `int8`, for microcontrollers, takes each value minus 128. Waveforms are float32 and
            tokens int32. Default `auto`.
        outputs: Dtype of the scores; `uint8` and `int8` have the scale that the file states. Default `float32`.
        selective: bool. For int8: keep as few operators with large rounding errors in float as the score on validation
            samples needs. A dozen files or more are evaluated, each on up to 256 samples. Default False.
    """
    if selective and quantize != "int8":
        got = f"selective=True with quantize={quantize!r}"
        raise UserError("selective=True of tflite() needs an int8 file", got=got, hint="say quantize='int8'")
    if quantize != "int8" and "int8" in (inputs, outputs.removeprefix("u")):
        got = f"inputs={inputs!r}, outputs={outputs!r} with quantize={quantize!r}"
        message = "Integer inputs and outputs of tflite() need an int8 file"
        raise UserError(message, got=got, hint="say quantize='int8'")
    name = ("tflite" if quantize == "none" else f"tflite_{quantize}") + ("_selective" if selective else "")

    def write(servable: Servable, path: Path) -> None:
        default_dtype = "uint8" if quantize == "int8" and _is_image_only(servable) else "float32"
        input_dtype = default_dtype if inputs == "auto" else inputs
        content = add_metadata(servable, convert(servable, name, quantize, input_dtype, outputs, selective))
        with files.write_atomically(path) as draft:
            draft.write_bytes(content)

    def read_kernels(path: Path) -> list[np.ndarray]:
        return litert.read_kernels(path.read_bytes())

    return Export(
        format=name,
        file_name=name.replace("tflite", "model") + ".tflite",
        write=write,
        load=load,
        tolerance=_TOLERANCES[quantize],
        quantized=quantize in ("dynamic", "int8", "int16x8"),
        read_kernels=read_kernels,
        selective=selective,
        fallback="split()",
    )


def convert(
    servable: Servable, name: str, quantize: Quantize, input_dtype: str, output_dtype: str, selective: bool = False
) -> bytes:
    """Convert the servable model to the content of a TFLite file, without metadata.

    Args:
        servable: Input of the export.
        name: Format, for messages.
        quantize: See `tflite`.
        input_dtype: Dtype of image inputs.
        output_dtype: Dtype of the scores.
        selective: See `tflite`.

    Raises:
        UserError: If TFLite lacks an operator of the model.
    """
    try:
        return _convert_servable(servable, name, quantize, input_dtype, output_dtype, selective)
    except RuntimeError as error:
        message, hint = f"TFLite cannot represent this model ({name})", "leave out this export, or use another backbone"
        raise UserError(message, got=describe_conversion_error(error), hint=hint) from None


def describe_conversion_error(error: Exception) -> str:
    """Return the reason of a failed conversion, with the operators that TFLite lacks."""
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op", str(error.__cause__))))
    return f"operators that TFLite lacks ({', '.join(missing)})" if missing else first_line(error)


def add_metadata(servable: Servable, content: bytes) -> bytes:
    """Add the metadata and labels of a servable to the content of a TFLite file."""
    channels = {name: shape[-1] if len(shape) == 3 else 0 for name, (shape, _) in servable.input_specs.items()}
    return tflite_metadata.add_metadata(content, servable.metadata, channels, servable.labels)


def _is_image_only(servable: Servable) -> bool:
    """Return True if all inputs are images."""
    return all(modality.dtype == "uint8" for modality in servable.modalities.values())


def _convert_servable(
    servable: Servable, name: str, quantize: Quantize, input_dtype: str, output_dtype: str, selective: bool
) -> bytes:
    # A quantized graph has an input type of its own; a float graph casts uint8.
    casts_uint8 = input_dtype == "uint8" and quantize != "int8"
    specs = tuple(
        tf.TensorSpec([1, *shape], "uint8" if casts_uint8 and len(shape) == 3 else dtype, name=name)
        for name, (shape, dtype) in servable.input_specs.items()
    )
    qat_fn = servable.qat_fn if quantize == "int8" else None
    frozen = (
        _freeze_function(qat_fn, specs)
        if qat_fn
        else _freeze_model(servable.model, specs, _hash_weights(servable.model))
    )
    names = list(servable.model.output)
    module = tf.Module()
    # Only a SavedModel gives the file a signature, and with it the names of inputs and outputs.
    module.serve = tf.function(lambda *tensors: dict(zip(names, frozen(*tensors), strict=True)), input_signature=specs)
    # Custom gradients, such as that of swish, cannot be saved with a graph of constants, and are not needed.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, {"serving_default": module.serve}, options)
        # Quantization-aware training has the ranges in its graph.
        is_calibrated = quantize in _INTEGER_OPS and not qat_fn
        order = _find_input_order(servable, folder) if is_calibrated else []
        calibration = functools.partial(_iter_inputs, servable, order, casts_uint8) if is_calibrated else None
        make_converter = functools.partial(_make_converter, folder, quantize, input_dtype, output_dtype, calibration)
        if selective:
            return _convert_selectively(servable, name, make_converter, order, input_dtype, output_dtype)
        return litert.convert(make_converter)


def _find_input_order(servable: Servable, folder: str) -> list[str]:
    """Return the names of the inputs in the order of the converter, which can differ from that of the model."""
    if len(servable.input_specs) == 1:
        return list(servable.input_specs)
    content = litert.convert(lambda: _make_converter(folder, "none", "float32", "float32", None))
    return litert.read_input_names(content)


def _convert_selectively(
    servable: Servable,
    name: str,
    make_converter: Callable[[], tf.lite.TFLiteConverter],
    order: list[str],
    input_dtype: str,
    output_dtype: str,
) -> bytes:
    if servable.score_drop_fn is None:
        raise ValueError("selective=True needs Servable.score_drop_fn")
    score_drop_fn = servable.score_drop_fn
    count = len(next(iter(servable.representative_dataset.values())))
    # Samples are often sorted by class, so that evenly spaced ones are taken.
    step = max(count // _NUM_DEBUG_SAMPLES, 1)
    debug_samples = {name: values[::step] for name, values in servable.representative_dataset.items()}
    debug_servable = dataclasses.replace(servable, representative_dataset=debug_samples)
    return selective_quantization.convert(
        name,
        make_converter,
        lambda: _iter_inputs(debug_servable, order),
        (tf.as_dtype(input_dtype), tf.as_dtype(output_dtype)),
        lambda content: score_drop_fn(make_predict(content)),
        servable.max_score_drop,
    )


@functools.lru_cache(maxsize=1)
def _freeze_model(
    model: keras.Model, specs: tuple[tf.TensorSpec, ...], digest: str
) -> tf.types.experimental.ConcreteFunction:
    """Return the model as a graph of constants, cached because every TFLite file of a model starts from it."""
    return _freeze_function(lambda inputs: model(inputs, training=False), specs)


def _freeze_function(run: FreezeFn, specs: tuple[tf.TensorSpec, ...]) -> tf.types.experimental.ConcreteFunction:
    def run_on_tensors(*tensors: tf.Tensor) -> list[tf.Tensor]:
        pairs = zip(specs, tensors, strict=True)
        inputs = {spec.name: tf.cast(x, tf.float32) if x.dtype == tf.uint8 else x for spec, x in pairs}
        return list(run(inputs).values())

    return litert.freeze(run_on_tensors, specs)


def _hash_weights(model: keras.Model) -> str:
    """Compute a digest of the weights, which training changes in place."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.asarray(weight).tobytes())
    return digest.hexdigest()


def _make_converter(
    folder: str,
    quantize: Quantize,
    input_dtype: str,
    output_dtype: str,
    representative_dataset: Callable[[], Iterator[list[np.ndarray]]] | None,
) -> tf.lite.TFLiteConverter:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize == "none":
        return converter
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if representative_dataset is not None:
        converter.target_spec.supported_ops = _INTEGER_OPS[quantize]
        converter.representative_dataset = representative_dataset
    if quantize == "int8":
        converter.inference_input_type = tf.as_dtype(input_dtype)
        converter.inference_output_type = tf.as_dtype(output_dtype)
    return converter


def _iter_inputs(servable: Servable, order: list[str], as_uint8: bool = False) -> Iterator[list[np.ndarray]]:
    """Yield the calibration samples as lists in the order of the inputs."""
    return ([batch[name] for name in order] for batch in iter_calibration_samples(servable, as_uint8))


def iter_calibration_samples(servable: Servable, as_uint8: bool = False) -> Iterator[Batch]:
    """Yield prepared training samples, one at a time, in the input format of the model.

    The first sample contains the pixel values 0 and 255, so that the quantized value of a pixel is its value.

    Args:
        servable: Input of the export.
        as_uint8: bool. True if the model takes images as uint8. Default False.
    """
    for index in range(len(next(iter(servable.representative_dataset.values())))):
        batch = {}
        for name, (shape, dtype) in servable.input_specs.items():
            is_image = len(shape) == 3
            values = servable.representative_dataset[name][index, None]
            batch[name] = values.astype("uint8" if as_uint8 and is_image else dtype)
            if index == 0 and is_image:
                batch[name][0, 0, :2] = [[0], [255]]
        yield batch
