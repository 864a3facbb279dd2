"""Types of targets that are located in an image: boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from tfx_finetune.types.aliases import AugmentFn, PostprocessFn, Tensor

IGNORE_INDEX = 255
"""Mask value of pixels that have no label: they count in no loss and no score."""
BACKGROUND = "background"
"""Class name of mask pixels that belong to no object."""


class Letterbox(NamedTuple):
    """Position of an image in the square model input: a point (y, x) of the image lies at (y, x) * scale + offset.

    Attributes:
        scale: float (2,). Factors in y and x.
        offset: float (2,). Offsets in y and x, in pixels of the square.
        side: int. Side of the square in pixels.
    """

    scale: Tensor
    offset: Tensor
    side: int


@dataclass(frozen=True)
class MultiSampleAugment:
    """Augment that combines a training sample with other training samples.

    Attributes:
        num_samples: int >= 1. Number of other samples that one call receives.
        probability: float, 0 to 1. Fraction of the samples that are changed.
        apply: (sample, other samples, stateless seed (2,)) -> sample, in TensorFlow operations. All samples are
            decoded and have the fields of `LocalizationTarget.read_annotations`; the other samples are not augmented.
            A sample with a mask also has `things`, bool (256,): True for mask values that are not background. A sample
            with a mask and boxes also has `values`, int32 (classes,): the mask value of each box class, -1 for a class
            that masks do not have.
        needs_masks: bool. True if the augment cuts objects out by their masks. Default False.
    """

    num_samples: int
    probability: float
    apply: Callable[[dict[str, Any], Sequence[dict[str, Any]], Any], dict[str, Any]]
    needs_masks: bool = False


SampleAugment: TypeAlias = "AugmentFn | MultiSampleAugment"
"""Augment of single samples, or of a sample with other samples."""


@runtime_checkable
class RandomAccessSource(Protocol):
    """Source whose samples can be read by index, as a `MultiSampleAugment` needs."""

    def __len__(self) -> int:
        """Return the number of samples in all parts."""
        ...

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        """Return the sample at a scalar index, counted over all parts in order."""
        ...


@dataclass(frozen=True)
class LocalizationTarget:
    """Functions of a target that moves with its image. `read_annotations` and `encode` are TensorFlow operations.

    Attributes:
        levels: Levels of `Features.pyramid` that the head reads, from fine to coarse, such as P3, P4, P5.
        read_annotations: (raw column, height and width of the decoded image (2,)) -> fields that augments move with
            the image. Either `mask`, uint8 (height, width, 1); or `boxes`, float32 (n, 4), left, top, right and bottom
            as fractions of the image's width and height, `classes`, int32 (n,), and `crowd`, bool (n,), True for boxes
            that count in no loss and no score.
        encode: (augmented fields of `read_annotations`, height and width of the augmented image (2,), `Letterbox`) ->
            target tensor.
        check_annotations: Raw column -> (class names joined by `LABEL_SEPARATOR`, error or "", repairs that
            `read_annotations` makes, each as a phrase that is counted).
        postprocess_fn: (decoded outputs (batch, ...), optional `nms_inputs`) -> predictions without the head's prefix,
            in TensorFlow operations. Either `boxes` (batch, n, 4), left, top, right and bottom as fractions of the
            model input, with `scores` and `labels` (batch, n); or `mask`, uint8 (batch, side, side).
        draw: (pixels (height, width, channels), target or output of `Task.postprocess`, True for a target) -> pixels
            with the annotations drawn.
        has_class_indices: bool. True if classes in annotations are indices of `Source.labels`. Default False.
        helper_file: Path of a Python file, copied into bundles, that postprocesses outputs of an exported file.
        nms_inputs: Name -> dtype of the optional inputs of `postprocess_fn`, each (batch,): thresholds that replace the
            head's options.
    """

    levels: tuple[str, ...]
    read_annotations: Callable[[Tensor, Tensor], dict[str, Tensor]]
    encode: Callable[[dict[str, Tensor], Tensor, Letterbox], Tensor]
    check_annotations: Callable[[bytes], tuple[str, str, tuple[str, ...]]]
    postprocess_fn: PostprocessFn
    draw: Callable[[np.ndarray, np.ndarray, bool], np.ndarray]
    has_class_indices: bool = False
    helper_file: str = ""
    nms_inputs: Mapping[str, str] = field(default_factory=dict)
