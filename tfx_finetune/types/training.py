"""Types of adapters and auxiliary losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import keras

    from tfx_finetune.types.aliases import Symbol

UNKNOWN_ID = -1
"""ID of samples whose group or domain is unknown."""


class Adapter(NamedTuple):
    """Parameter-efficient fine-tuning of a tower: the functions that add, merge and insert trainable weights.

    Attributes:
        attach: Function of a list of layers. Adds weights to the layers, or selects the weights that are trained.
        merge: Function of the same list of layers. Merges the added weights into the layers, which then have their
            original architecture and `trainable` flags.
        insert: Function (group name, group output) -> tensor, or None. Inserts layers behind a layer group; they stay
            in the network and are the identity before training.
    """

    attach: Callable[[Sequence[Any]], None]
    merge: Callable[[Sequence[Any]], None]
    insert: Callable[[str, Symbol], Symbol] | None = None


class AuxiliaryLoss(NamedTuple):
    """Loss that a phase adds to the loss of the labels.

    Attributes:
        output: Symbolic tensor (batch, ...), the input of the loss.
        loss: Keras loss of (IDs (batch, 2), output), of shape (batch,). Column 0 of the IDs is the group, column 1 the
            domain; `UNKNOWN_ID` if a sample has none.
        weight: float > 0. Weight of the loss in the total loss, in which the supervised loss has weight 1.
    """

    output: Symbol
    loss: keras.losses.Loss
    weight: float


class WeightedLosses(NamedTuple):
    """Losses of a model and their weights in the total loss.

    Attributes:
        losses: Keras losses by output name, such as `label/logits`.
        weights: Weight of each loss by output name.
    """

    losses: dict[str, Any]
    weights: dict[str, float]


class ObjectiveContext(NamedTuple):
    """Inputs from which an objective builds its loss.

    Attributes:
        features: Symbolic tensor (batch, dim), the features that the heads read.
        num_domains: Number of distinct values in the domain column of the objective.
        total_steps: Number of training steps of the phase.
        seed: Seed of the run.
    """

    features: Symbol
    num_domains: int
    total_steps: int
    seed: int


@dataclass(frozen=True)
class Objective:
    """Auxiliary loss on the features of training samples with and without labels.

    The layers of the loss are removed when the phase ends.

    Attributes:
        column: Name of the domain column, such as `language`. The loss aligns or separates its values.
        make_loss: Function that builds the loss of one phase.
        needs_positives: True if the loss needs positive pairs: samples of the same group in different domains.
        propagate_labels: True if a positive is trained with the label of its anchor.
        num_positives: int >= 1. Number of samples that are added to a batch for each training sample.
    """

    column: str
    make_loss: Callable[[ObjectiveContext], AuxiliaryLoss]
    needs_positives: bool = False
    propagate_labels: bool = False
    num_positives: int = 1
