"""The loss that pulls together what the towers make of one sample."""

from typing import Any

import keras
import tensorflow as tf

from tfx_finetune.models.network import PROJECTIONS, Network
from tfx_finetune.ops.tf_data import parallel_map
from tfx_finetune.types.components import MODALITY_MASK


class CLIPLoss(keras.losses.Loss):
    """Of the views of a batch, each tower's finds that of the same sample among another tower's: the mean over pairs of
    towers of InfoNCE (van den Oord et al., arXiv 1807.03748, equation 4), both ways, as in CLIP (arXiv 2103.00020).

    Args:
        temperature: By which cosines are divided.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__(name="contrastive", reduction="mean")
        self.temperature = temperature

    def call(self, modality_mask: Any, projections: Any) -> Any:
        """Returns the loss of each sample, (batch,).

        Args:
            presence: Which towers have something to see, (batch, towers).
            views: Points of unit length, (batch, towers, dim).
        """
        ops = keras.ops
        total = ops.zeros_like(modality_mask[:, 0])
        towers = projections.shape[1]
        for one in range(towers):
            for other in range(towers):
                if one == other:
                    continue
                both = modality_mask[:, one] * modality_mask[:, other]
                cosines = ops.matmul(projections[:, one], ops.transpose(projections[:, other])) / self.temperature
                # What is not there is no candidate.
                cosines = ops.where(both[None, :] > 0, cosines, -1e9)
                total += -both * ops.diagonal(ops.log_softmax(cosines, axis=-1))
        return total / (towers * (towers - 1))


def make_losses(network: Network) -> tuple[dict[str, Any], dict[str, float]]:
    """The losses of a network's outputs, and the weight of each."""
    found = {f"{head}/logits": task.loss for head, task in network.tasks.items()}
    weights = dict.fromkeys(found, 1.0)
    if PROJECTIONS in network.model.output and network.fusion:
        found[PROJECTIONS] = CLIPLoss(network.fusion.temperature)
        weights[PROJECTIONS] = network.fusion.contrastive_weight
    return found, weights


def add_contrastive_targets(batches: tf.data.Dataset, network: Network) -> tf.data.Dataset:
    """Training batches with what the loss of views takes, where the network has them."""
    if PROJECTIONS not in network.model.output:
        return batches
    return parallel_map(
        batches,
        lambda x, y, w: (
            x,
            y | {PROJECTIONS: x[MODALITY_MASK]},
            w | {PROJECTIONS: tf.ones_like(x[MODALITY_MASK][:, 0])},
        ),
    )
