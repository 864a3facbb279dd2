"""Features of several languages or sources get one covariance."""

from typing import Any

import keras

from tfx_finetune.training.objectives.rows import check_weight
from tfx_finetune.types.components import OBJECTIVES
from tfx_finetune.types.training import AuxiliaryLoss, Objective


@OBJECTIVES.register
def coral(weight: float = 1.0, column: str = "source") -> Objective:
    """The distance between the covariances of what heads read of two domains (Sun and Saenko, Deep CORAL, arXiv
    1607.01719, equation 1), on the mean over the pairs of domains of which a batch has two samples or more.

    Args:
        weight: Of the loss, beside that of the labels, above 0. The loss is divided by 4 dim^2, so that it may need a
            large one.
        column: Whose values are the domains.
    """
    check_weight("coral", weight)

    return Objective(column, lambda seen: AuxiliaryLoss(seen.features, CORALLoss(seen.num_domains), weight))


class CORALLoss(keras.losses.Loss):
    """The loss of `coral`, for this many domains."""

    def __init__(self, num_domains: int) -> None:
        super().__init__(name="covariances", reduction="mean")
        self.num_domains = num_domains

    def call(self, ids: Any, features: Any) -> Any:
        """Returns the loss of the batch at each of its samples, (batch,).

        Args:
            marks: Group and domain, (batch, 2).
            features: What is to be alike, (batch, dim).
        """
        ops = keras.ops
        dim = features.shape[-1]
        member = ops.one_hot(ops.cast(ids[:, 1], "int32"), self.num_domains, dtype=features.dtype)
        count = ops.sum(member, axis=0)
        means = ops.matmul(ops.transpose(member), features) / ops.maximum(count, 1)[:, None]
        apart = features - ops.matmul(member, means)
        found = ops.einsum("nk,nd,ne->kde", member, apart, apart) / ops.maximum(count - 1, 1)[:, None, None]
        there = ops.cast(count > 1, features.dtype)
        several = ops.sum(there)
        mean = ops.sum(found * there[:, None, None], axis=0) / ops.maximum(several, 1)
        # Over pairs of m things, the squared distances sum up to m times those from their mean.
        spread = ops.sum(there * ops.sum(ops.square(found - mean), axis=(1, 2)))
        loss = 2 * spread / ops.maximum(several - 1, 1) / (4 * dim**2)
        return loss * ops.ones_like(features[:, 0])
