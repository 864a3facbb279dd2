"""CLIP loss, which pulls the projections of the towers for the same sample together; and the losses of a network."""

from typing import Any

import keras
import tensorflow as tf

from tfx_finetune.models.network import PROJECTIONS, Network
from tfx_finetune.ops.tf_data import parallel_map
from tfx_finetune.types.components import MODALITY_MASK
from tfx_finetune.types.training import WeightedLosses


class CLIPLoss(keras.losses.Loss):
    """Symmetric InfoNCE loss between the projections of every pair of towers, averaged over the pairs.

    CLIP, arXiv 2103.00020; InfoNCE, van den Oord et al., arXiv 1807.03748, equation 4. The positive of a sample is the
    other tower's projection of the same sample; the negatives are the other samples of the batch.

    Args:
        temperature: float > 0. Divides the cosine similarities.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__(name="contrastive", reduction="mean")
        self.temperature = temperature

    def call(self, modality_mask: Any, projections: Any) -> Any:
        """Return the loss of each sample, (batch,).

        Args:
            modality_mask: float tensor (batch, towers). 1 if the input of a tower is present, else 0.
            projections: float tensor (batch, towers, dim) of unit vectors.
        """
        ops = keras.ops
        total = ops.zeros_like(modality_mask[:, 0])
        num_towers = projections.shape[1]
        for anchor in range(num_towers):
            for other in range(num_towers):
                if anchor == other:
                    continue
                has_both = modality_mask[:, anchor] * modality_mask[:, other]
                cosines = ops.matmul(projections[:, anchor], ops.transpose(projections[:, other])) / self.temperature
                # Samples with a missing input are not negatives.
                cosines = ops.where(has_both[None, :] > 0, cosines, -1e9)
                total += -has_both * ops.diagonal(ops.log_softmax(cosines, axis=-1))
        return total / (num_towers * (num_towers - 1))


def make_losses(network: Network) -> WeightedLosses:
    """Return the losses of a network: one per head, and the CLIP loss if the fusion has projections."""
    losses = {f"{head}/logits": task.loss for head, task in network.tasks.items()}
    weights = dict.fromkeys(losses, 1.0)
    if PROJECTIONS in network.model.output and network.fusion:
        losses[PROJECTIONS] = CLIPLoss(network.fusion.temperature)
        weights[PROJECTIONS] = network.fusion.contrastive_weight
    return WeightedLosses(losses, weights)


def add_contrastive_targets(batches: tf.data.Dataset, network: Network) -> tf.data.Dataset:
    """Add the targets of the CLIP loss to training batches if the network has projections.

    Args:
        batches: Training batches (inputs, targets, weights).
        network: The whole model.
    """
    if PROJECTIONS not in network.model.output:
        return batches
    return parallel_map(
        batches,
        lambda inputs, targets, weights: (
            inputs,
            targets | {PROJECTIONS: inputs[MODALITY_MASK]},
            weights | {PROJECTIONS: tf.ones_like(inputs[MODALITY_MASK][:, 0])},
        ),
    )
