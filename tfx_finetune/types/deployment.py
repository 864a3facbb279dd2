"""Layer 1: what a trained model becomes: types of compressions, exports and the stations behind training."""

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
    """What every export writes: raw or prepared input in, decoded output out.

    Attributes:
        model: Keras model, {tower: prepared input} -> {"<head>/scores": ...}; with several towers it takes `PRESENCE`
            too.
        modalities: How raw content becomes its inputs, by tower.
        labels: Class names by head.
        examples: Prepared training inputs for calibration, (n, ...).
        about: What files say about themselves: name, description, version, author, license.
        rounded: Prepared inputs (batch, ...) -> decoded outputs, with the rounding of int8 in the graph as
            quantization-aware training left it; None where there was none.
        drop: Score that a predict function loses against the trained model on validation samples, for exports that
            choose by it; None where none does.
        allowed: What it may lose there.
        ends: What each tower gives, of the model's own graph, by tower.
        routed: Heads that answer one language or source.
        found: Of heads that find things in pictures: see `Places.found`.
        limits: Of those heads: see `Places.limits`.
        programs: Files that belong to those heads: see `Places.program`.
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
        """Shape, without the batch, and type of each input."""
        found = {tower: (modality.shape, modality.input_dtype) for tower, modality in self.modalities.items()}
        return found | ({MODALITY_MASK: ((len(found),), "float32")} if len(found) > 1 else {})

    @property
    def portable(self) -> bool:
        """Whether raw content can be prepared inside of a SavedModel."""
        return all(modality.portable for modality in self.modalities.values())


class LoadedModel(NamedTuple):
    """An exported file, opened.

    predict: Prepared inputs -> decoded outputs.
    serve: Raw inputs ({tower: list of bytes}) -> decoded outputs, for files that decode by themselves.
    """

    predict: PredictFn
    predict_raw: Callable[[dict[str, list[bytes]]], Batch] | None = None


@dataclass(frozen=True)
class Export:
    """One exported file.

    Attributes:
        format: Its name to users, such as `tflite_int8`.
        file: Its name inside the bundle.
        write: (servable, path) -> None.
        load: path -> Reader.
        tolerance: Largest difference of a decoded output from the trained model's on a golden sample.
        quantized: Whether rounding changes its outputs, so that the wider gate applies.
        kernels: path -> the kernels of the file's convolutions and dense layers as they are stored, output channels
            first, depthwise ones left out; None where they cannot be read.
        selective: Whether `write` chooses by `Servable.drop` what it rounds.
        instead: What is written of a model of several towers where this cannot be, as a spec; empty for nothing.
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
    """One way of making a trained model smaller, on its twin in tf_keras.

    Attributes:
        name: What it is called.
        epochs: Passes over the training samples.
        learning_rate: Peak of the cosine.
        wrap: (a copy of the twin, training steps, what it takes of samples, one (n, ...) an input, names of the
            compressions before) -> a tf_keras model of the same inputs and outputs that is trained.
        strip: (that model, twin) -> None; gives the twin's layers the trained weights.
        callbacks: Makes the tf_keras callbacks that its training needs.
        anytime: Whether every epoch's weights comply, so that the best one may be kept; else the last one is.
        inside: Kinds of layers whose arithmetic stays float.
        sparsity: Share of zeros that it leaves in each kernel of a convolution or dense layer.
        clusters: Most values that it leaves there; 0 for any number.
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
    """One condition, such as `size<2MB`.

    Attributes:
        text: As it was written.
        measure: What is limited.
        most: Whether `bound` is the most that it may be; else the least.
        bound: In the measure's own unit.
        unit: That it was written in.
    """

    text: str
    measure: str
    is_upper: bool
    bound: float
    unit: str
