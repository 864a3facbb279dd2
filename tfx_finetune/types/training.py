"""Layer 1: the types of what a phase learns: in place of a tower's weights, and beside the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import keras

    Symbol: TypeAlias = keras.KerasTensor

UNKNOWN_ID = -1
"""The mark of a sample without a group, or without a value of the column."""


class Adapter(NamedTuple):
    """What a phase trains inside the groups that it unfreezes, in place of all their weights.

    attach: Adds weights to these layers, or chooses those that are trained.
    merge: Makes the layers what they were, apart from the values of their weights and from which are trained.
    insert: (a group's name, its output) -> what goes on in its place, for layers that stay: at first the identity.
    """

    attach: Callable[[Sequence[Any]], None]
    merge: Callable[[Sequence[Any]], None]
    insert: Callable[[str, Symbol], Symbol] | None = None


class AuxiliaryLoss(NamedTuple):
    """A loss beside that of the labels.

    output: What it is of, symbolic, (batch, ...).
    loss: A Keras loss over (marks (batch, 2): numbers of the group and of the value of the column, `UNKNOWN` for none;
        output) that gives (batch,).
    weight: Beside the labels' loss, which has 1.
    """

    output: Symbol
    loss: keras.losses.Loss
    weight: float


class ObjectiveContext(NamedTuple):
    """What an objective is made of.

    features: What the heads read, (batch, dim).
    values: How many values its column has.
    steps: Of the phase.
    seed: Of the run.
    """

    features: Symbol
    num_domains: int
    total_steps: int
    seed: int


@dataclass(frozen=True)
class Objective:
    """What is learned beside the labels, of training samples with and without labels. Its layers leave with the phase.

    Attributes:
        column: Whose values it tells apart or brings together, such as `language`.
        term: Its loss.
        pairs: Whether it is of samples of one group with different values; else of any samples.
        inherit: Whether what stands beside a sample of its group has its label.
        company: How many stand beside each training sample of a batch.
    """

    column: str
    make_loss: Callable[[ObjectiveContext], AuxiliaryLoss]
    needs_positives: bool = False
    propagate_labels: bool = False
    num_positives: int = 1
