"""Records of compression and export, and of the constraints on exported files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tfx_finetune.types.aliases import Batch, PostprocessFn, PredictFn
from tfx_finetune.types.components import MODALITY_MASK

if TYPE_CHECKING:
    import keras
    import numpy as np

    from tfx_finetune.types.aliases import Tensor
    from tfx_finetune.types.components import Modality


@dataclass(frozen=True)
class Servable:
    """Trained model with everything that an export writes.

    Attributes:
        model: Keras model, {tower: prepared input} -> {"<head>/scores": ...}. A model with several towers also has the
            input `modality_mask`.
        modalities: Preprocessing by tower.
        labels: Class names by head.
        representative_dataset: Prepared training inputs for calibration, (n, ...) by input.
        metadata: Metadata for the exported files: name, description, version, author, license.
        qat_fn: Prepared inputs (batch, ...) -> decoded outputs, with the fake quantization of quantization-aware
            training in the graph; None without such training.
        score_drop_fn: Predict function -> loss of validation score relative to the trained model, for selective
            exports; None if there are none.
        max_score_drop: float >= 0. Maximum result of `score_drop_fn` for a selective export.
        tower_outputs: Symbolic output of each tower in the graph of `model`.
        per_group_heads: Heads for one language or source each.
        postprocess_fns: `LocalizationTarget.postprocess_fn` by head.
        nms_inputs: `LocalizationTarget.nms_inputs` of all heads.
        helper_files: `LocalizationTarget.helper_file` of all heads.
    """

    model: keras.Model
    modalities: Mapping[str, Modality]
    labels: Mapping[str, tuple[str, ...]]
    representative_dataset: Batch
    metadata: Mapping[str, str] = field(default_factory=dict)
    qat_fn: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    score_drop_fn: Callable[[PredictFn], float] | None = None
    max_score_drop: float = 0.0
    tower_outputs: Mapping[str, Any] = field(default_factory=dict)
    per_group_heads: tuple[str, ...] = ()
    postprocess_fns: Mapping[str, PostprocessFn] = field(default_factory=dict)
    nms_inputs: Mapping[str, str] = field(default_factory=dict)
    helper_files: tuple[str, ...] = ()

    @property
    def input_specs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape without the batch axis, and dtype, of each input."""
        specs = {tower: (modality.shape, modality.input_dtype) for tower, modality in self.modalities.items()}
        return specs | ({MODALITY_MASK: ((len(specs),), "float32")} if len(specs) > 1 else {})

    @property
    def portable(self) -> bool:
        """True if a SavedModel can contain the preprocessing of all towers."""
        return all(modality.portable for modality in self.modalities.values())


class LoadedModel(NamedTuple):
    """Functions of an exported file.

    Attributes:
        predict: Prepared inputs -> decoded outputs.
        predict_raw: Raw inputs ({tower: list of bytes}) -> decoded outputs; None if the file does not preprocess.
    """

    predict: PredictFn
    predict_raw: Callable[[dict[str, list[bytes]]], Batch] | None = None


@dataclass(frozen=True)
class Export:
    """Format of an exported file.

    Attributes:
        format: Name of the format, such as `tflite_int8`.
        file_name: Name of the file or folder in the bundle.
        write: (servable, path) -> None. Writes the file.
        load: path -> `LoadedModel`. Opens the file.
        tolerance: float. Maximum absolute difference of a decoded output from the trained model's on golden samples.
        quantized: bool. True if the file rounds values; the gate `--verify.max_drop` applies instead of
            `--verify.max_drop_float`.
        read_kernels: path -> stored kernels of convolutions and dense layers, output channels first, without depthwise
            kernels; None if they cannot be read.
        selective: bool. True if `write` selects float operators by `Servable.score_drop_fn`. Default False.
        fallback: Spec of the export that replaces this one if it cannot convert a model with several towers; empty
            for none.
    """

    format: str
    file_name: str
    write: Callable[[Servable, Path], None]
    load: Callable[[Path], LoadedModel]
    tolerance: float
    quantized: bool
    read_kernels: Callable[[Path], list[np.ndarray]] | None = None
    selective: bool = False
    fallback: str = ""


@dataclass(frozen=True)
class Compression:
    """Method that makes a trained model smaller, applied to its tf_keras copy.

    Attributes:
        name: Name of the method.
        epochs: int. Number of training epochs.
        learning_rate: float. Peak of the cosine learning-rate schedule.
        wrap: (copy of the tf_keras model, number of training steps, model inputs as one array (n, ...) per input, names
            of earlier methods) -> tf_keras model with the same inputs and outputs for training.
        strip: (trained model of `wrap`, tf_keras model) -> None. Writes the trained weights to the tf_keras model.
        callbacks: Returns the tf_keras callbacks that the training needs.
        restore_best_weights: bool. True if the weights of every epoch are compressed, so that the best epoch can be
            selected; otherwise the last epoch is. Default False.
        float_layers: Layer classes that this method leaves in float.
        sparsity: float, 0 to 1. Fraction of zeros in each kernel of a convolution or dense layer.
        num_clusters: int. Maximum number of distinct values in such a kernel; 0 for no maximum.
    """

    name: str
    epochs: int
    learning_rate: float
    wrap: Callable[[Any, int, Sequence[np.ndarray], Sequence[str]], Any]
    strip: Callable[[Any, Any], None]
    callbacks: Callable[[], list[Any]]
    restore_best_weights: bool = False
    float_layers: tuple[str, ...] = ()
    sparsity: float = 0.0
    num_clusters: int = 0


@dataclass(frozen=True)
class Constraint:
    """Limit on a measurement of an exported file, such as `size<2MB`.

    Attributes:
        text: Text of the constraint as the user wrote it.
        measure: Name of the measurement, such as `size`.
        is_upper: bool. True if `bound` is a maximum, False for a minimum.
        bound: float. Limit in the base unit of the measurement: bytes, milliseconds or a fraction.
        unit: Unit in `text`.
    """

    text: str
    measure: str
    is_upper: bool
    bound: float
    unit: str
