"""Records that components return, and the registries of components.

In a factory function, positional-only parameters are arguments of the caller, and keyword-only parameters are options
that a user may write in a spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from tfx_finetune.core.errors import first_line
from tfx_finetune.core.registry import Registry

if TYPE_CHECKING:
    import tensorflow as tf

    from tfx_finetune.types.aliases import Symbol, Tensor
    from tfx_finetune.types.localization import Letterbox

Sample = dict[str, Any]
"""Raw columns of one sample, mostly scalar tensors; a missing input is an empty string.

- `image`: encoded bytes, or uint8 pixels (height, width, channels). `audio`: encoded bytes. `text`: UTF-8.
- `label`: one class name, or several joined by `LABEL_SEPARATOR`. `objects`: see `ops/objects.py`.
- `mask`: PNG whose values are indices of `Source.labels` or `IGNORE_INDEX`.
- `file`: path or ID for messages.
- Optional: `split`, `group`, `source`, `language`.

A column in `Source.paths` contains the path of a file instead of its content."""

LABEL_SEPARATOR = "\n"
SPLITS = ("train", "val", "test")


class Source(Protocol):
    """Source of samples.

    Attributes:
        name: Short name for the report and the default work folder.
        sizes: Number of samples in each part: `train`, `val`, `test` if the data set has splits, otherwise `all`.
        labels: Class names in the order of the data set; empty if they are collected from the samples and sorted.
        paths: Columns that contain the path of a file instead of its content.
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
        """Return the raw samples of a part, unbatched, always in the same order."""
        ...


@dataclass(frozen=True)
class PretrainedCfg:
    """Input format and origin of the weights of a backbone, as in timm.

    Attributes:
        size: int. Input size: side of the square image in pixels, length of the waveform in samples, or number of
            tokens.
        mean: Per channel (red, green, blue), in pixel values 0 to 255. The network computes (pixel - mean) / std.
        std: Per channel, like `mean`.
        channels: int. 3 for RGB, 1 for grayscale.
        origin: Source of the weights, such as a URL or a package; empty for randomly initialized weights.
        license: License of the weights; empty if unknown.
        sha256: Checksum of the file of the weights; empty if unknown.
        sample_rate: int. Sample rate of a waveform in Hz.
        tokenizer: Spec of the tokenizer, such as `code_points()`; see `datasets/modalities/tokenizers.py`.
        vocabulary: Path of the tokenizer's vocabulary file, which bundles copy; empty if there is none.
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

    @classmethod
    def from_manifest(cls, tower: Mapping[str, Any], folder: Path) -> PretrainedCfg:
        """Return the configuration in a tower's entry of a manifest.

        Args:
            tower: Entry of the tower in the manifest of a bundle.
            folder: Folder of the bundle, which has a copy of the vocabulary.
        """
        entry: Mapping[str, Any] = tower["pretrained_cfg"]
        # JSON has no tuples.
        values: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in entry.items()}
        cfg = cls(**values)
        return replace(cfg, vocabulary=str(folder / cfg.vocabulary)) if cfg.vocabulary else cfg


MODALITY_MASK = "modality_mask"
"""Input of a model with several towers: float32 (batch, towers), 1 if the sample has the tower's input, else 0."""


class SamplePreview(NamedTuple):
    """Preview of a sample for the report.

    Attributes:
        image: Encoded image; empty for a sample without an image.
        audio: Content of a WAV file; empty for a sample without audio.
        text: Text; empty for a sample without text.
    """

    image: bytes = b""
    audio: bytes = b""
    text: str = ""


@dataclass(frozen=True)
class Modality:
    """Conversion of one column of a sample to model input.

    Attributes:
        column: Name of the modality, and of the sample's column unless a tower is named after another column.
        decode: Raw content -> decoded content, in TensorFlow operations. Image: encoded bytes -> uint8 (height, width,
            channels). Audio: encoded bytes -> float32 (samples,), -1 to 1. Text: UTF-8 -> normalized UTF-8.
        prepare: Decoded content -> model input: uint8 (size, size, channels), float32 (size,), or int32 (size,) tokens.
        shape: Shape of the model input without the batch axis.
        empty_value: Returns the decoded value of a missing input, for models with several towers.
        portable: bool. True if a SavedModel can contain `decode` and `prepare`.
        dtype: Dtype of the output of `prepare`.
        unit: Plural noun for the samples, such as `images`.
        default_augments: Augment specs of `--augment=default`.
        inline: bool. True if a sample contains the content itself, such as a text, instead of the path of a file.
        error_message: Exception raised by `decode` -> short reason.
        preview: (raw content, model input) -> `SamplePreview`.
        warning: Raw content -> short remark that completes the sentence "<file> is ..."; empty for a normal file.
        letterbox: Height and width of a decoded image (2,) -> its `Letterbox`, in TensorFlow operations; None for
            other modalities.
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
        """Dtype of the model input: float32 for uint8 pixels, otherwise `dtype`."""
        return "float32" if self.dtype == "uint8" else self.dtype


class Features(NamedTuple):
    """Symbolic outputs of a backbone that heads and fusions read.

    Attributes:
        pooled: (batch, dim). Global feature vector.
        pyramid: Feature maps by level: {"P2": (batch, height / 4, width / 4, channels), ...}; level n has stride 2^n.
        tokens: (batch, time, dim). Sequence features of text and audio, or None.
        mask: (batch, time). Valid positions of `tokens`, or None.
    """

    pooled: Symbol
    pyramid: Mapping[str, Symbol] = {}
    tokens: Symbol | None = None
    mask: Symbol | None = None


class LayerGroup(NamedTuple):
    """Named group of layers that are frozen or trained together, and the single tensor that leaves the group."""

    name: str
    layers: tuple[str, ...]
    output: Symbol


@dataclass(frozen=True)
class Backbone:
    """Pretrained encoder as a flat functional graph.

    Attributes:
        modality: Name of the modality.
        pretrained_cfg: Input format and origin of the weights.
        inputs: Symbolic input with the dtype `Modality.input_dtype`: images (batch, size, size, channels) with pixel
            values 0 to 255, which the first layer of the graph normalizes; waveforms (batch, size); or tokens, int32
            (batch, size).
        features: Outputs.
        groups: Layer groups from input to output. One tensor connects consecutive groups. Layers before the first
            group are never trained.
        from_scratch: bool. True if the bundle of `--init` trained this backbone from scratch. Default False.
    """

    modality: str
    pretrained_cfg: PretrainedCfg
    inputs: Symbol
    features: Features
    groups: tuple[LayerGroup, ...]
    from_scratch: bool = False


class FusionOutput(NamedTuple):
    """Symbolic outputs of a fusion.

    Attributes:
        features: Inputs of a head. If there are several, the head has weights for each, and `gate_weights` averages
            the logits.
        gate_weights: (batch, towers), sum 1. Weight of each tower, or None.
        projections: (batch, towers, dim). L2-normalized projections into a shared space, or None.
    """

    features: tuple[Features, ...]
    gate_weights: Symbol | None = None
    projections: Symbol | None = None


@dataclass(frozen=True)
class Fusion:
    """Combination of the features of several towers.

    Attributes:
        fuse: (features by tower, `modality_mask` input) -> `FusionOutput`. Missing inputs must not change the output.
        needs_tokens: bool. True if `fuse` reads `Features.tokens`; otherwise it reads pooled features only.
        contrastive_weight: float >= 0. Weight of the contrastive loss between the projections of a sample.
        temperature: float > 0. Temperature of the contrastive loss.
    """

    fuse: Callable[[Mapping[str, Features], Symbol], FusionOutput]
    needs_tokens: bool = False
    contrastive_weight: float = 0.0
    temperature: float = 0.1


AugmentedBatch: TypeAlias = tuple[Any, dict[str, Any], dict[str, Any]]


class BatchAugment(NamedTuple):
    """Augment of batches.

    Attributes:
        apply: (inputs, targets by head, weights by head, stateless seed (2,)) -> augmented inputs, targets, weights.
    """

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
