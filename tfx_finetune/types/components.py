"""Layer 1: the types that components and stations exchange, and the registries of components: functions that return
one of the records below. Positional-only parameters are what the caller hands them, all others what a user may write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from tfx_finetune.core.errors import first_line
from tfx_finetune.core.registry import Registry
from tfx_finetune.types.aliases import Batch

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from tfx_finetune.types.aliases import Symbol, Tensor
    from tfx_finetune.types.localization import Letterbox, LocalizationTarget

Sample = dict[str, Any]
"""Raw columns of one sample, scalar tensors unless said: `image` (encoded bytes, or uint8 pixels of shape
(height, width, channels)), `audio` (encoded bytes), `text` (UTF-8), each empty where a sample lacks it, `label` (one
class name, or several joined by `LABEL_SEPARATOR`), `objects` (`ops/objects.py`), `mask` (a PNG whose values are
places in `Source.labels`, or `places.UNTOLD`), `file` (what a person would call it: a path, or an id), and, where the
data has them, `split`, `group`, `source`, `language`. A column in `Source.paths` holds the path of a file."""

LABEL_SEPARATOR = "\n"
SPLITS = ("train", "val", "test")


class Source(Protocol):
    """Where samples come from.

    Attributes:
        name: Short name, for the report and the default work folder.
        sizes: Samples in each part: `train`, `val`, `test` where the data is split already, else `all`.
        labels: Class names in order where the data fixes it; empty where they are to be collected and sorted.
        paths: Columns that hold the path of a file and not yet its content.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def sizes(self) -> Mapping[str, int]: ...  # noqa: D102
    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def paths(self) -> tuple[str, ...]: ...  # noqa: D102

    def read(self, part: str) -> tf.data.Dataset:
        """Returns the part's raw samples, unbatched, always in the same order."""
        ...


@dataclass(frozen=True)
class PretrainedCfg:
    """What feeds pretrained weights correctly: of a picture the network sees `(pixel - mean) / std`.

    Attributes:
        size: Of the input: the side of the square in pixels, the waveform's samples, or a text's tokens.
        mean, std: Per channel, in pixel values of 0 to 255, in the order red, green, blue.
        channels: 3, or 1 for grey.
        origin: Where the weights come from; empty for weights initialized at random.
        license, sha256: Of the weights and of their file, where they are known.
        rate: Of a waveform, in samples a second.
        tokenizer: How text becomes tokens, as a spec such as `code_points()`; see `datasets/modalities/tokenizers.py`.
        vocabulary: File that the tokenizer reads; a bundle has a copy of it. Empty where it needs none.
    """

    size: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: int = 3
    origin: str = ""
    license: str = ""
    sha256: str = ""
    sample_rate: int = 0
    tokenizer: str = ""
    vocabulary: str = ""


MODALITY_MASK = "modality_mask"
"""Input of a model of several towers: which of them have something to see, float32 (batch, towers), 1 or 0."""


class SamplePreview(NamedTuple):
    """What a person sees and hears of a sample: an encoded picture, a WAV file, a text, empty where there is none."""

    image: bytes = b""
    audio: bytes = b""
    text: str = ""


@dataclass(frozen=True)
class Modality:
    """How one column of a sample becomes model input.

    Attributes:
        column: The modality's name, and the sample's column unless a tower is named after another one.
        decode: Raw content -> decoded, in TensorFlow operations. Image: encoded bytes -> uint8 (height, width,
            channels). Audio: encoded bytes -> float32 (samples,) of -1 to 1. Text: UTF-8 -> normalized UTF-8.
        prepare: Decoded -> what the model takes: uint8 (size, size, channels), float32 (size,), int32 (size,) tokens.
        shape: Shape of what the model takes, without the batch.
        blank: The decoded value of a missing sample, in a model of several towers.
        portable: Whether decode and prepare can stand inside a SavedModel.
        dtype: Of what prepare gives.
        noun: What a sample is, in the plural.
        usual: The augments of a run that names none, as specs.
        inline: Whether people write the content itself where others have the path of a file.
        reason: Why something cannot be decoded, in a few words, from what decoding raised.
        show: (raw content, prepared) -> what a person sees and hears.
        remark: Raw content -> what a person should know of it, to be read behind `is` or `are`; mostly empty.
        lay: Height and width of a decoded picture, (2,) -> how `prepare` lays it, in TensorFlow operations.
    """

    column: str
    decode: Callable[[Tensor], Tensor]
    prepare: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    empty_value: Callable[[], Tensor]
    portable: bool
    dtype: str = "uint8"
    unit: str = "samples"
    default_augments: str = ""
    inline: bool = False
    error_message: Callable[[Exception], str] = first_line
    preview: Callable[[bytes, np.ndarray], SamplePreview] = lambda raw, prepared: SamplePreview()
    warning: Callable[[bytes], str] = lambda raw: ""
    letterbox: Callable[[Tensor], Letterbox] | None = None

    @property
    def input_dtype(self) -> str:
        """The type in which models take it: pixels as floats, so that what comes next need not convert them."""
        return "float32" if self.dtype == "uint8" else self.dtype


class Features(NamedTuple):
    """What a tower gives a head, symbolic.

    pooled: (batch, dim). pyramid: {"P2": (batch, height/4, width/4, channels), ...}, level n at stride 2^n.
    tokens: (batch, time, dim) and mask: (batch, time), for text and audio.
    """

    pooled: Symbol
    pyramid: Mapping[str, Symbol] = {}
    tokens: Symbol | None = None
    mask: Symbol | None = None


class LayerGroup(NamedTuple):
    """Layers of a tower that are frozen or trained together, and the one tensor that leaves them."""

    name: str
    layers: tuple[str, ...]
    output: Symbol


@dataclass(frozen=True)
class Backbone:
    """A pretrained tower as a flat functional graph.

    Attributes:
        modality, card: Name of the modality it takes, and its weight card.
        inputs: Its input, as `Modality.fed`: pictures (batch, size, size, channels), pixel values of 0 to 255, which
            the graph's first layer normalizes; waveforms (batch, size); tokens int32 (batch, size).
        features: What it gives.
        groups: From the input to the top, the graph one tensor wide after each. What is below them is never trained.
        scratch: Whether the bundle that a run starts from trained it from scratch.
    """

    modality: str
    pretrained_cfg: PretrainedCfg
    inputs: Symbol
    features: Features
    groups: tuple[LayerGroup, ...]
    from_scratch: bool = False


class FusionOutput(NamedTuple):
    """What several towers give together, symbolic.

    features: What a head sees. Of several, it has weights for each, and their logits are averaged by `shares`.
    shares: How much each tower counts, (batch, towers), summing to 1; None where that cannot be told.
    views: What each tower gives, as points of unit length in one space, (batch, towers, dim); None where none is.
    """

    features: tuple[Features, ...]
    gate_weights: Symbol | None = None
    projections: Symbol | None = None


@dataclass(frozen=True)
class Fusion:
    """How several towers become one.

    Attributes:
        fuse: (features by tower, `PRESENCE`) -> what they give together; what is absent makes no difference.
        tokens: Whether it takes tokens; else the pooled features are all that it takes.
        contrast, temperature: Weight and temperature of the loss that pulls the views of one sample together.
    """

    fuse: Callable[[Mapping[str, Features], Symbol], FusionOutput]
    needs_tokens: bool = False
    contrastive_weight: float = 0.0
    temperature: float = 0.1


class ClassLabels(NamedTuple):
    """The classes of a head: names in order, how many training samples each has, the training samples in all, and the
    names in other languages, in the same order, empty where one is not known."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    num_samples: int
    translations: Mapping[str, tuple[str, ...]] = {}


@dataclass(frozen=True)
class Task:
    """A head with the loss, metrics, decoding and scores that belong to it, made together so that they agree.

    Attributes:
        labels: The classes.
        column: The sample's column with the target.
        single: Whether each sample has exactly one of the classes.
        encode: Raw column -> target tensor, in TensorFlow operations.
        weight: One target -> its sample weight (scalar), from the class weights, in TensorFlow operations.
        head: Features -> outputs by name (`logits`).
        loss: A Keras loss over (target, logits).
        metrics: Makes fresh Keras metrics over (target, logits), for the progress bar and early stopping.
        score: Name of the score that early stopping and the gate read; higher is better.
        decode: Outputs -> decoded outputs (`logits` -> `scores`), in `keras.ops`, part of every export.
        scores: (targets (n, ...), scores (n, classes), whole=True) -> all scores by name, or `score` and what it needs.
        correct: (targets, scores) -> value in [0, 1] of each sample, (n,); the mean is `score` or near it.
        predict: One sample's scores -> the fields of its JSON line: label, score, scores.
        per: Column whose value names the one head that is asked (`tasks/routing.py`); empty where it always is.
        pool: How much such a head is held to the shared one on which it stands; 0 where it stands by itself.
        space: What tells names that no training sample has, and those given at prediction; None for fixed classes.
        read: Decoded outputs of a batch -> what `scores`, `correct` and `predict` take, of its samples.
        places: Of a target that says where something is, which then is what makes it, not `encode`; else None.
    """

    labels: ClassLabels
    column: str
    single_label: bool
    encode: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]
    head: Callable[[Features], dict[str, Symbol]]
    loss: keras.losses.Loss
    make_metrics: Callable[[], list[keras.metrics.Metric]]
    monitor: str
    decode: Callable[[dict[str, Symbol]], dict[str, Symbol]]
    compute_metrics: Callable[..., dict[str, Any]]
    per_sample_score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    format_prediction: Callable[[np.ndarray], dict[str, Any]]
    heads_by: str = ""
    l2_to_shared: float = 0.0
    zero_shot: ZeroShotSpace | None = None
    postprocess: Callable[[Batch], np.ndarray] = lambda outputs: outputs["scores"]
    localization: LocalizationTarget | None = None


AugmentedBatch: TypeAlias = tuple[Any, dict[str, Any], dict[str, Any]]


class BatchAugment(NamedTuple):
    """An augment of whole batches: (inputs, targets by head, weights by head, stateless seed (2,)) -> all but that."""

    apply: Callable[[Any, dict[str, Any], dict[str, Any], Any], AugmentedBatch]


SOURCES = Registry("source", "tfx_finetune.datasets.sources", "tfx_finetune.datasets.samples")
MODALITIES = Registry("modality", "tfx_finetune.datasets.modalities")
AUGMENTS = Registry("augment", "tfx_finetune.datasets.augments")
BACKBONES = Registry("backbone", "tfx_finetune.models.backbones")
NECKS = Registry("neck", "tfx_finetune.models.necks")
FUSIONS = Registry("fusion", "tfx_finetune.models.fusions")
ADAPTERS = Registry("adapter", "tfx_finetune.models.adapters")
TASKS = Registry("task", "tfx_finetune.tasks")
COMPRESSIONS = Registry("compression", "tfx_finetune.compression.methods")
EXPORTS = Registry("export", "tfx_finetune.deploy.formats")
OBJECTIVES = Registry("objective", "tfx_finetune.training.objectives")

REGISTRIES = (
    *(SOURCES, MODALITIES, AUGMENTS, BACKBONES, NECKS, FUSIONS),
    *(ADAPTERS, TASKS, COMPRESSIONS, EXPORTS, OBJECTIVES),
)


SHARED = "shared"
"""The head that answers all samples, where others answer those of one language or source."""


class ZeroShotSpace(NamedTuple):
    """Where a head puts a sample, and the names that are near it.

    among: Names -> (the sample's point (dim,) -> the fields of its JSON line), for names that are given at prediction.
    retrieval: (targets (n, classes), points (n, dim)) -> scores by name.
    """

    zero_shot_classifier: Callable[[Sequence[str]], Callable[[np.ndarray], dict[str, Any]]]
    retrieval_metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]
