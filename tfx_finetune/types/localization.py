"""Layer 1: targets that say where in a picture something is, and how a picture lies in what a model sees of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from tfx_finetune.types.aliases import AugmentFn, PostprocessFn, Tensor

IGNORE_INDEX = 255
"""Value of a mask where nothing is learned and nothing is scored."""
BACKGROUND = "background"
"""The class of masks that is no thing."""


class Letterbox(NamedTuple):
    """How a picture lies in the prepared one, a square of `side` pixels.

    A point at (y, x) pixels of the picture comes to (y, x) * scale + offset, each (2,).
    """

    scale: Tensor
    offset: Tensor
    side: int


@dataclass(frozen=True)
class MultiSampleAugment:
    """An augment that puts other training samples into one.

    Attributes:
        count: How many it takes.
        probability: Share of the samples that it changes, 0 to 1.
        apply: (sample, partners, stateless seed (2,)) -> sample, in TensorFlow operations. All are decoded and have
            what moves beside the picture; partners are not augmented. Beside a mask, the sample has `things` bool
            (256,), which of its values are no background, and beside boxes, too, `values` int32 (classes,), the value
            of each of their classes, -1 of those that masks do not tell.
        masked: Whether masks have to say whose the pixels are.
    """

    num_samples: int
    probability: float
    apply: Callable[[dict[str, Any], Sequence[dict[str, Any]], Any], dict[str, Any]]
    needs_masks: bool = False


SampleAugment: TypeAlias = "AugmentFn | MultiSampleAugment"
"""An augment of single samples, with or without others."""


@runtime_checkable
class RandomAccessSource(Protocol):
    """A source that can be read in any order, as `Partners` need it."""

    def at(self, place: Tensor) -> dict[str, Tensor]:
        """Returns the sample at a place, a scalar, among those of all parts in order."""
        ...


@dataclass(frozen=True)
class LocalizationTarget:
    """What makes a target that moves with its picture. `read` and `encode` are TensorFlow operations.

    Attributes:
        levels: What the head sees of `Features.pyramid`, from fine to coarse, such as P3, P4, P5.
        read: (raw column, decoded picture's height and width (2,)) -> what augments move beside the picture: `mask`
            uint8 (height, width, 1); or `boxes` float32 (n, 4) of left, top, right, bottom in shares of the picture's
            width and height, `classes` int32 (n,), and `crowd` bool (n,), of what is neither learned nor scored.
        encode: (what `read` gave, moved; the picture's height and width then, (2,); how it lies) -> target.
        examine: Raw column -> the classes in it, joined by `LABEL_SEPARATOR`; why it cannot be used, or nothing; and
            what `read` mends or leaves out of it, each in the words by which it is counted.
        found: Decoded outputs (batch, ...) -> what a person wants of them, without the head's name, in TensorFlow
            operations: `boxes` (batch, most, 4) of left, top, right, bottom in shares of the prepared picture,
            `scores` and `labels` (batch, most); or `mask` uint8 (batch, side, side). It may be told `limits` by name.
        draw: (pixels (height, width, channels), what is in them, whether that is a target, else what `Task.read` gave)
            -> drawn pixels.
        indexed: Whether those classes are places in `Source.labels`, as numbers.
        program: A Python file that makes of a file's answers what was found; a bundle has a copy.
        limits: What `found` may be told beside, (batch,) by name, with the type: thresholds in place of the head's own.
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
