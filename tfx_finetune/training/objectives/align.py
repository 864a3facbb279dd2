"""Samples of one thing in several languages are pulled together."""

from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.training.objectives.rows import check_weight, scale_to_masked_mean
from tfx_finetune.types.components import OBJECTIVES
from tfx_finetune.types.training import UNKNOWN_ID, AuxiliaryLoss, Objective, ObjectiveContext


@OBJECTIVES.register
def align(
    weight: float = 1.0,
    temperature: float = 0.1,
    column: str = "language",
    propagate_labels: bool = True,
    num_positives: int = 4,
) -> Objective:
    """By what heads read, a sample finds those of its group in other languages among all of a batch: InfoNCE (van den
    Oord et al., arXiv 1807.03748, equation 4).

    Beside each training sample stand some of its group in other languages, labelled or not.

    Args:
        weight: Of the loss, beside that of the labels, above 0.
        temperature: By which cosines are divided, above 0.
        column: In which the samples of a group differ.
        inherit: Whether what stands beside a sample is taught the sample's label too, as it is the same thing; together
            they weigh as much as the sample.
        company: How many stand beside each sample, 1 or more, drawn anew in every epoch.
    """
    check_weight("align", weight)
    if not (temperature > 0 and num_positives > 0):
        received = f"temperature={temperature}, company={num_positives}"
        raise UserError("align is out of range", got=received, expected="above 0")

    def term(seen: ObjectiveContext) -> AuxiliaryLoss:
        return AuxiliaryLoss(seen.features, InfoNCE(temperature), weight)

    return Objective(column, term, needs_positives=True, propagate_labels=propagate_labels, num_positives=num_positives)


class InfoNCE(keras.losses.Loss):
    """The loss of `align`; of several samples of its group in other languages a sample finds each, on the mean."""

    def __init__(self, temperature: float) -> None:
        super().__init__(name="together", reduction="mean")
        self.temperature = temperature

    def call(self, ids: Any, features: Any) -> Any:
        """Returns the loss of each sample, (batch,); 0 for one without others of its group.

        Args:
            marks: Group and language, (batch, 2).
            features: What is pulled together, (batch, dim).
        """
        ops = keras.ops
        group, language = ids[:, 0], ids[:, 1]
        same = ops.logical_and(group[:, None] == group[None], group[:, None] != UNKNOWN_ID)
        sought = ops.logical_and(same, language[:, None] != language[None])
        # Neither the sample itself nor others of its group and language are candidates.
        candidates = ops.logical_or(sought, ops.logical_not(same))
        candidates = ops.logical_and(candidates, ops.logical_not(ops.eye(ops.shape(group)[0], dtype="bool")))
        points = features * ops.rsqrt(ops.sum(ops.square(features), axis=-1, keepdims=True) + 1e-12)
        cosines = ops.where(candidates, ops.matmul(points, ops.transpose(points)) / self.temperature, -1e9)
        sought = ops.cast(sought, features.dtype)
        count = ops.sum(sought, axis=-1)
        losses = -ops.sum(sought * ops.log_softmax(cosines, axis=-1), axis=-1) / ops.maximum(count, 1)
        return scale_to_masked_mean(losses, count > 0)
