"""The loss of a mask: cross-entropy of pixels and overlap of classes, a value for each picture."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.localization import IGNORE_INDEX


class CrossEntropyDice(keras.losses.Loss):
    """Cross-entropy, the mean over the pixels that are told, and Dice, the mean over the classes that occur.

    Masks are compared at the logits' places: a mask has `stride` pixels for each, of which the middle one is taken.

    Args:
        weights: Of the classes, (classes,).
        smoothing: Share of the target spread over all classes.
        focal: Gamma of the focal loss (Lin et al., arXiv 1708.02002); 0 is plain cross-entropy.
        dice: Weight of 1 - 2 sum(p g) / (sum(p^2) + sum(g^2)), p the probabilities and g the truth (V-Net: Milletari et
            al., arXiv 1606.04797, section 3).
        stride: Pixels of a mask, along each side, to one of the logits.
    """

    def __init__(
        self, class_weights: np.ndarray, label_smoothing: float, focal: float, dice: float, stride: int
    ) -> None:
        super().__init__(name="pixels", reduction="mean_with_sample_weight")
        self.class_weights, self.label_smoothing, self.focal, self.dice, self.stride = (
            class_weights,
            label_smoothing,
            focal,
            dice,
            stride,
        )

    def call(self, target: Any, logits: Any) -> Any:
        """Masks (batch, side, side) and logits (batch, side / stride, side / stride, classes) -> losses (batch,).

        Raises:
            UserError: The network gives another side.
        """
        check_sides(target.shape[1], logits.shape[1], self.stride)
        middle = self.stride // 2
        target = ops.cast(target[:, middle :: self.stride, middle :: self.stride], "int32")
        told = ops.cast(target != IGNORE_INDEX, logits.dtype)
        # One-hot of what is none of the classes is 0 everywhere, and so are the losses of what is untold.
        truth = ops.one_hot(ops.where(target == IGNORE_INDEX, -1, target), logits.shape[-1], dtype=logits.dtype)
        logs = ops.log_softmax(logits)
        entropy = self._cross_entropy(truth, told[..., None], logs)
        return entropy + (self.dice * self._dice_loss(truth, told[..., None], logs) if self.dice else 0.0)

    def _cross_entropy(self, truth: Any, valid: Any, logs: Any) -> Any:
        target = truth * (1 - self.label_smoothing) + valid * (self.label_smoothing / logs.shape[-1])
        if self.focal:
            logs = logs * (1 - ops.exp(logs)) ** self.focal
        pixels = ops.sum(truth * ops.convert_to_tensor(self.class_weights, logs.dtype), -1) * -ops.sum(
            target * logs, -1
        )
        return ops.sum(pixels, (1, 2)) / ops.maximum(ops.sum(valid, (1, 2, 3)), 1.0)

    def _dice_loss(self, truth: Any, valid: Any, logs: Any) -> Any:
        found = ops.exp(logs) * valid
        both, each = ops.sum(found * truth, (1, 2)), ops.sum(found**2 + truth, (1, 2))
        there = ops.cast(ops.any(truth > 0, (1, 2)), logs.dtype)
        lost = there * (1 - 2 * both / ops.maximum(each, 1e-6))
        return ops.sum(lost, -1) / ops.maximum(ops.sum(there, -1), 1.0)


def check_sides(image_side: int, logits_side: int, stride: int) -> None:
    """Raises a `UserError` where logits of this side do not stand for a prepared picture of that one."""
    if image_side is not None and logits_side is not None and image_side != logits_side * stride:
        raise UserError(
            "segment() cannot give a mask in the size of the picture",
            got=f"{logits_side} logits along a side of {image_side} pixels",
            expected=f"one for each {stride} pixels",
            hint="take an --image.size that is a multiple of 32, and a backbone that pads its input",
        )
