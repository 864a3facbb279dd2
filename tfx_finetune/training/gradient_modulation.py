"""A tower that learns faster than the others is slowed, so that they are not starved of gradient.

On-the-fly gradient modulation (Peng et al., Balanced multimodal learning, arXiv 2203.15332, equations 8 to 10), with
three differences. The steps are scaled, not the gradients, whose size means nothing to Adam. What a tower knows alone
is measured by leaving the others out, which any fusion allows, not by a part of a linear head; and it is measured once
an epoch, on training samples, not in every batch.
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


def compute_modulation_coefficients(unimodal_scores: Mapping[str, float], strength: float) -> dict[str, float]:
    """Factor of the steps of each tower, of what each knows alone: 1 for those that are not ahead.

    Args:
        known: Mean probability, or the like, that each tower alone gives to what is right, above 0.
        strength: Alpha of the paper, 0 or more.
    """
    found = {}
    for tower, mine in unimodal_scores.items():
        others = [value for other, value in unimodal_scores.items() if other != tower]
        ahead = mine / max(sum(others) / len(others), 1e-9)
        found[tower] = 1 - math.tanh(strength * ahead) if ahead > 1 else 1.0
    return found


class GradientModulation(keras.callbacks.Callback):
    """Sets the factors before every epoch.

    Args:
        top: What is trained.
        network: The whole model.
        inputs: What the top sees of some training samples.
        targets: Of these, by head.
        slowed: The factors, by tower.
        strength: See `coefficients`.
    """

    def __init__(
        self,
        trainable_part: keras.Model,
        network: Network,
        inputs: Batch,
        targets: Batch,
        modulation_coefficients: Mapping[str, keras.Variable],
        strength: float,
    ) -> None:
        super().__init__()
        self.network, self.modulation_coefficients, self.strength = network, modulation_coefficients, strength
        self.inputs, self.targets = inputs, targets
        self.predict = tf.function(lambda inputs: trainable_part(inputs, training=False), autograph=False)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Measures what each tower knows alone."""
        known = {tower: self._unimodal_score(tower) for tower in self.network.backbones}
        for tower, factor in compute_modulation_coefficients(known, self.strength).items():
            self.modulation_coefficients[tower].assign(factor)

    def _unimodal_score(self, tower: str) -> float:
        """Mean score that is given to what is right by one tower alone."""
        mine = np.array([name == tower for name in self.network.backbones], np.float32)
        presence = self.inputs[MODALITY_MASK] * mine
        there = presence.any(1)
        if not there.any():
            return 0.0
        outputs = self.predict({name: tf.constant(v) for name, v in (self.inputs | {MODALITY_MASK: presence}).items()})
        right = []
        for head, task in self.network.tasks.items():
            scores = np.asarray(task.decode({"logits": outputs[f"{head}/logits"]})["scores"])[there]
            target = self.targets[head][there]
            right.append(float((scores * target).sum() / max(target.sum(), 1)))
        return sum(right) / len(right)
