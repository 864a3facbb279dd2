"""Gradient modulation: slows the tower that learns faster than the others, so that they keep learning.

On-the-fly gradient modulation (Peng et al., Balanced multimodal learning, arXiv 2203.15332, equations 8 to 10), with
three differences:

- The steps are scaled, not the gradients, because Adam is invariant to the size of the gradients.
- The score of a single tower is measured with the other inputs absent, which works for every fusion. The paper uses
  the tower's part of a linear head.
- The scores are measured once per epoch, on training samples. The paper measures them on every batch.
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.models.network import Network
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK

MODULATION_SAMPLES = 512
"""Number of training samples on which the score of each tower is measured."""


def compute_modulation_coefficients(unimodal_scores: Mapping[str, float], strength: float) -> dict[str, float]:
    """Compute the factor of the steps of each tower; 1 for towers that are not ahead of the others.

    Args:
        unimodal_scores: Score > 0 of each tower alone, such as the mean probability of the true class.
        strength: float >= 0. Alpha of the paper.

    Examples:
        >>> compute_modulation_coefficients({"image": 0.8, "text": 0.4}, strength=0.0)
        {'image': 1.0, 'text': 1.0}
        >>> round(compute_modulation_coefficients({"image": 0.8, "text": 0.4}, strength=0.5)["image"], 3)
        0.238
    """
    coefficients = {}
    for tower, score in unimodal_scores.items():
        others = [value for other, value in unimodal_scores.items() if other != tower]
        ratio = score / max(sum(others) / len(others), 1e-9)
        coefficients[tower] = 1 - math.tanh(strength * ratio) if ratio > 1 else 1.0
    return coefficients


class GradientModulation(keras.callbacks.Callback):
    """Callback that sets the modulation coefficients before every epoch.

    Args:
        trainable_part: The compiled model of the phase; its optimizer has `modulation_coefficients`, a variable per
            tower.
        network: The whole model.
        inputs: Inputs (n, ...) of the trainable part for training samples.
        targets: Targets (n, ...) of these samples by head.
        strength: float >= 0. Alpha of the paper.
    """

    def __init__(
        self, trainable_part: keras.Model, network: Network, inputs: Batch, targets: Batch, strength: float
    ) -> None:
        super().__init__()
        self.network, self.inputs, self.targets, self.strength = network, inputs, targets, strength
        self.coefficients: Mapping[str, keras.Variable] = trainable_part.optimizer.modulation_coefficients
        self.predict = tf.function(lambda inputs: trainable_part(inputs, training=False), autograph=False)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Measure the score of each tower alone and set the coefficients."""
        scores = {tower: self._unimodal_score(tower) for tower in self.network.backbones}
        for tower, coefficient in compute_modulation_coefficients(scores, self.strength).items():
            self.coefficients[tower].assign(coefficient)

    def _unimodal_score(self, tower: str) -> float:
        """Return the mean probability of the true class when only the input of this tower is present."""
        is_tower = np.array([name == tower for name in self.network.backbones], np.float32)
        modality_mask = self.inputs[MODALITY_MASK] * is_tower
        is_present = modality_mask.any(1)
        if not is_present.any():
            return 0.0
        inputs = self.inputs | {MODALITY_MASK: modality_mask}
        outputs = self.predict({name: tf.constant(values) for name, values in inputs.items()})
        head_scores = []
        for head, task in self.network.tasks.items():
            scores = np.asarray(task.decode({"logits": outputs[f"{head}/logits"]})["scores"])[is_present]
            target = self.targets[head][is_present]
            head_scores.append(float((scores * target).sum() / max(target.sum(), 1)))
        return sum(head_scores) / len(head_scores)
