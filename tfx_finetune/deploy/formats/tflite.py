"""TFLite (LiteRT): for phones, small computers and browsers."""

import dataclasses
import functools
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core import files, hardware
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.deploy.formats import selective_quantization as selection
from tfx_finetune.deploy.formats import tflite_metadata
from tfx_finetune.ops import litert
from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.components import EXPORTS
from tfx_finetune.types.deployment import Export, LoadedModel, Servable

Quantize = Literal["none", "float16", "dynamic", "int8", "int16x8"]
Inputs = Literal["auto", "uint8", "int8", "float32"]
Outputs = Literal["float32", "uint8", "int8"]

# Largest difference of a probability. float16 keeps 11 bits of each weight; 8-bit kinds are judged by the score,
# the tolerance only catches what is another model altogether.
_TOLERANCES = {"none": 1e-4, "float16": 2e-2, "dynamic": 0.3, "int8": 0.5, "int16x8": 0.3}
_OPS = tf.lite.OpsSet
# Samples on which the errors of operators are measured; so many say which are large.
_NUM_DEBUG_SAMPLES = 16
# What has no kernel of 16 x 8 bits, such as hard-swish, stays float.
_INTEGER_OPS = {
    "int8": [_OPS.TFLITE_BUILTINS_INT8],
    "int16x8": [_OPS.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8, _OPS.TFLITE_BUILTINS],
}


@EXPORTS.register
def tflite(
    quantize: Quantize = "none", inputs: Inputs = "auto", outputs: Outputs = "float32", selective: bool = False
) -> Export:
    """A TFLite file of builtin operators, for one sample at a time.

    It carries its labels, and name, version, author and license of `--about`, as TFLite metadata.

    Args:
        quantize: `none`; `float16` and `dynamic` (8-bit) weights; `int8` weights and activations, calibrated on
            training samples (Jacob et al., arXiv 1712.05877); `int16x8`, the same with activations of 16 bits, nearer
            to float and slower, where an operator that knows no 16 bits stays float.
        inputs: Type of a picture that goes in, of values 0 to 255: by default `uint8` for int8 where there is nothing
            else, else `float32`. `int8`, for microcontrollers, takes each value less 128. Waveforms are floats, tokens
            int32.
        outputs: Type of the scores; `uint8` and `int8` have the scale that the file says.
        selective: For int8: operators that lose most by rounding stay float, as few as keep the score on validation
            samples. Some dozen files are tried, each on up to 256 samples.
    """
    if selective and quantize != "int8":
        received = f"selective=True beside quantize={quantize!r}"
        raise UserError("only of an int8 file a part stays float", got=received, hint="say quantize='int8'")
    if quantize != "int8" and "int8" in (inputs, outputs.removeprefix("u")):
        received = f"inputs={inputs!r}, outputs={outputs!r} beside quantize={quantize!r}"
        raise UserError("only an int8 file takes or gives integers", got=received, hint="say quantize='int8'")
    name = ("tflite" if quantize == "none" else f"tflite_{quantize}") + ("_selective" if selective else "")

    def write(servable: Servable, path: Path) -> None:
        kind = (
            ("uint8" if quantize == "int8" and _is_image_only(servable) else "float32") if inputs == "auto" else inputs
        )
        content = add_metadata(servable, convert(servable, name, quantize, kind, outputs, selective))
        with files.write_atomically(path) as draft:
            draft.write_bytes(content)

    file = name.replace("tflite", "model") + ".tflite"
    rounds = quantize in ("dynamic", "int8", "int16x8")

    def kernels(path: Path) -> list[np.ndarray]:
        return litert.read_kernels(path.read_bytes())

    return Export(name, file, write, load, _TOLERANCES[quantize], rounds, kernels, selective, fallback="split()")


def convert(
    servable: Servable, name: str, quantize: Quantize, inputs: str, outputs: str, selective: bool = False
) -> bytes:
    """A TFLite file's content; `name` is the format's.

    Raises:
        UserError: The model has an operation that TFLite lacks.
    """
    try:
        return _convert_servable(servable, name, quantize, inputs, outputs, selective)
    except RuntimeError as error:
        todo = "leave this export out, or take another backbone"
        raise UserError(
            f"TFLite cannot take this model ({name})", got=describe_conversion_error(error), hint=todo
        ) from None


def describe_conversion_error(error: Exception) -> str:
    """What a conversion failed at, in words."""
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op", str(error.__cause__))))
    return f"operators that TFLite lacks ({', '.join(missing)})" if missing else first_line(error)


def add_metadata(servable: Servable, content: bytes) -> bytes:
    """The content with what the file says about itself."""
    channels = {name: shape[-1] if len(shape) == 3 else 0 for name, (shape, _) in servable.input_specs.items()}
    return tflite_metadata.add_metadata(content, servable.metadata, channels, servable.labels)


def _is_image_only(servable: Servable) -> bool:
    """Whether the model takes pictures alone."""
    return all(modality.dtype == "uint8" for modality in servable.modalities.values())


def load(path: Path) -> LoadedModel:
    """Opens a TFLite file of this package.

    Raises:
        UserError: It is not a TFLite file, is of another tool, or wants operators that are not builtin.
    """
    try:
        return LoadedModel(_make_predict(path.read_bytes()))
    except (ValueError, RuntimeError, OSError) as error:
        reason = first_line(error)
        raise UserError("not a TFLite file of this package that runs here", got=f"{path} ({reason})") from None


def _make_predict(content: bytes) -> PredictFn:
    threads = hardware.detect().threads
    one = litert.open_interpreter(content, threads).get_signature_runner("serving_default")
    fed, given = one.get_input_details(), one.get_output_details()

    # A file takes one sample. So several go side by side, each on a thread, which is twice as fast as one after the
    # other on two.
    @functools.cache
    def several() -> tuple[ThreadPoolExecutor, list[Any]]:
        runners = [litert.open_interpreter(content, 1).get_signature_runner("serving_default") for _ in range(threads)]
        return ThreadPoolExecutor(threads), runners

    def row(runner: Any, inputs: Batch, position: int) -> Batch:
        sample = {name: _quantize_input(values[position : position + 1], fed[name]) for name, values in inputs.items()}
        return {name: _dequantize_output(value, given[name]) for name, value in runner(**sample).items()}

    def predict(inputs: Batch) -> Batch:
        count = len(next(iter(inputs.values())))
        if count == 1 or threads == 1:
            rows = [row(one, inputs, position) for position in range(count)]
        else:
            executor, runners = several()
            shares = executor.map(
                lambda share: [row(runners[share], inputs, at) for at in range(share, count, threads)], range(threads)
            )
            rows = [Batch()] * count
            for share, part in enumerate(shares):
                rows[share::threads] = part
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    return predict


def _quantize_input(values: Any, detail: dict[str, Any]) -> np.ndarray:
    """Real values as a file takes them; pixels go in as they are where its step is 1 and its zero 0."""
    scale, zero = detail["quantization"]
    if not scale:
        return np.asarray(values).astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    whole = np.round(np.asarray(values, np.float32) / scale) + zero
    return np.clip(whole, limits.min, limits.max).astype(detail["dtype"])


def _dequantize_output(values: Any, detail: dict[str, Any]) -> np.ndarray:
    """What a file gives as real values."""
    scale, zero = detail["quantization"]
    return np.float32(scale) * (np.asarray(values, np.float32) - zero) if scale else np.array(values)


def _convert_servable(
    servable: Servable, name: str, quantize: Quantize, input_dtype: str, output_dtype: str, selective: bool
) -> bytes:
    # A quantized graph takes uint8 by its own input type; a float one casts.
    casts = input_dtype == "uint8" and quantize != "int8"
    specs = tuple(
        tf.TensorSpec([1, *shape], "uint8" if casts and len(shape) == 3 else kind, name=name)
        for name, (shape, kind) in servable.input_specs.items()
    )
    trained = servable.qat_fn if quantize == "int8" else None
    frozen = (
        _freeze_function(trained, specs)
        if trained
        else _freeze_model(servable.model, specs, _hash_weights(servable.model))
    )
    names = list(servable.model.output)
    module = tf.Module()
    # The file's signature, and with it the names of inputs and outputs, comes from the SavedModel alone.
    module.serve = tf.function(lambda *fed: dict(zip(names, frozen(*fed), strict=True)), input_signature=specs)
    # Gradients of one's own, such as that of swish, cannot be saved with a graph of constants; nothing here needs them.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, {"serving_default": module.serve}, options)
        # The ranges are part of a graph that was trained with them.
        calibrated = quantize in _INTEGER_OPS and not trained
        order = _find_input_order(servable, folder) if calibrated else []
        examples = functools.partial(_iter_inputs, servable, order, casts) if calibrated else None
        make = functools.partial(_make_converter, folder, quantize, input_dtype, output_dtype, examples)
        return (
            _convert_selectively(servable, name, make, order, input_dtype, output_dtype)
            if selective
            else litert.convert(make)
        )


def _find_input_order(servable: Servable, folder: str) -> list[str]:
    """The order of a file's inputs, which is the converter's own where there are several."""
    if len(servable.input_specs) == 1:
        return list(servable.input_specs)
    content = litert.convert(lambda: _make_converter(folder, "none", "float32", "float32", None))
    return litert.read_input_names(content)


def _convert_selectively(
    servable: Servable,
    name: str,
    make: Callable[[], tf.lite.TFLiteConverter],
    order: list[str],
    inputs: str,
    outputs: str,
) -> bytes:
    if servable.score_drop_fn is None:
        raise ValueError("selective=True needs to know what a file loses")
    drop = servable.score_drop_fn
    count = len(next(iter(servable.representative_dataset.values())))
    # They often come class by class.
    shown = {
        name: values[:: max(count // _NUM_DEBUG_SAMPLES, 1)] for name, values in servable.representative_dataset.items()
    }
    few = dataclasses.replace(servable, representative_dataset=shown)
    types = tf.as_dtype(inputs), tf.as_dtype(outputs)
    return selection.convert(
        name,
        make,
        lambda: _iter_inputs(few, order),
        types,
        lambda content: drop(_make_predict(content)),
        servable.max_score_drop,
    )


@functools.lru_cache(maxsize=1)
def _freeze_model(model: keras.Model, specs: tuple[tf.TensorSpec, ...], digest: str) -> Any:
    """The model as a graph of constants, kept for the next file of the same model: every TFLite file starts from it."""

    return _freeze_function(lambda inputs: model(inputs, training=False), specs)


def _freeze_function(
    run: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]], specs: tuple[tf.TensorSpec, ...]
) -> Any:
    def each(*fed: tf.Tensor) -> list[tf.Tensor]:
        # Pixels may come as bytes.
        named = zip(specs, fed, strict=True)
        inputs = {spec.name: tf.cast(x, tf.float32) if x.dtype == tf.uint8 else x for spec, x in named}
        return list(run(inputs).values())

    return litert.freeze(each, specs)


def _hash_weights(model: keras.Model) -> str:
    """Changes with the weights, which training changes in place."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.asarray(weight).tobytes())
    return digest.hexdigest()


def _make_converter(
    folder: str,
    quantize: Quantize,
    inputs: str,
    outputs: str,
    examples: Callable[[], Iterator[list[np.ndarray]]] | None,
) -> tf.lite.TFLiteConverter:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize == "none":
        return converter
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if examples is not None:
        converter.target_spec.supported_ops = _INTEGER_OPS[quantize]
        converter.representative_dataset = examples
    if quantize == "int8":
        converter.inference_input_type, converter.inference_output_type = tf.as_dtype(inputs), tf.as_dtype(outputs)
    return converter


def _iter_inputs(servable: Servable, order: list[str], as_uint8: bool = False) -> Iterator[list[np.ndarray]]:
    """As `calibration`, in this order of the inputs."""
    return ([batch[name] for name in order] for batch in iter_calibration_samples(servable, as_uint8))


def iter_calibration_samples(servable: Servable, as_uint8: bool = False) -> Iterator[Batch]:
    """Prepared training samples as the model takes them, one at a time.

    The whole range of pixels is shown, so that a pixel's value is its quantized value.

    Args:
        servable: What is exported.
        casts: Whether pixels go in as bytes.
    """
    for position in range(len(next(iter(servable.representative_dataset.values())))):
        batch = {}
        for name, (shape, kind) in servable.input_specs.items():
            picture = len(shape) == 3
            batch[name] = servable.representative_dataset[name][position, None].astype(
                "uint8" if as_uint8 and picture else kind
            )
            if position == 0 and picture:
                batch[name][0, 0, :2] = [[0], [255]]
        yield batch
