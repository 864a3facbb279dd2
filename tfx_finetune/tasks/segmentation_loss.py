"""Loss of a segmentation mask: cross-entropy of the pixels and Dice of the classes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.localization import IGNORE_INDEX


class CrossEntropyDice(keras.losses.Loss):
    """Mean cross-entropy over the labeled pixels, plus the mean Dice loss over the classes that occur.

    The loss is computed at the resolution of the logits, from the middle pixel of each cell of `stride` pixels.

    Args:
        class_weights: float (classes,). Weights of the classes.
        label_smoothing: float, 0 to below 1. Fraction of the target that is spread over all classes.
        focal: float >= 0. Gamma of the focal loss (Lin et al., arXiv 1708.02002); 0 is plain cross-entropy.
        dice: float >= 0. Weight of 1 - 2 sum(p g) / (sum(p^2) + sum(g^2)), with probabilities p and truth g (V-Net:
            Milletari et al., arXiv 1606.04797, section 3).
        stride: int. Pixels of a mask along each side of one cell of the logits.
    """

    def __init__(
        self, class_weights: np.ndarray, label_smoothing: float, focal: float, dice: float, stride: int
    ) -> None:
        super().__init__(name="cross_entropy_dice", reduction="mean_with_sample_weight")
        self.class_weights, self.label_smoothing, self.focal = class_weights, label_smoothing, focal
        self.dice, self.stride = dice, stride

    def call(self, target: Any, logits: Any) -> Any:
        """Compute the loss of each image, (batch,).

        Args:
            target: (batch, side, side). Masks.
            logits: (batch, side / stride, side / stride, classes).

        Raises:
            UserError: If the side of the logits does not match.
        """
        check_sides(target.shape[1], logits.shape[1], self.stride)
        middle = self.stride // 2
        target = ops.cast(target[:, middle :: self.stride, middle :: self.stride], "int32")
        valid = ops.cast(target != IGNORE_INDEX, logits.dtype)[..., None]
        # The one-hot code of -1 is 0 everywhere, so that pixels without a label have no loss.
        truth = ops.one_hot(ops.where(target == IGNORE_INDEX, -1, target), logits.shape[-1], dtype=logits.dtype)
        log_probs = ops.log_softmax(logits)
        cross_entropy = self._cross_entropy(truth, valid, log_probs)
        return cross_entropy + (self.dice * self._dice_loss(truth, valid, log_probs) if self.dice else 0.0)

    def _cross_entropy(self, truth: Any, valid: Any, log_probs: Any) -> Any:
        target = truth * (1 - self.label_smoothing) + valid * (self.label_smoothing / log_probs.shape[-1])
        if self.focal:
            log_probs = log_probs * (1 - ops.exp(log_probs)) ** self.focal
        pixel_weights = ops.sum(truth * ops.convert_to_tensor(self.class_weights, log_probs.dtype), -1)
        pixel_losses = pixel_weights * -ops.sum(target * log_probs, -1)
        return ops.sum(pixel_losses, (1, 2)) / ops.maximum(ops.sum(valid, (1, 2, 3)), 1.0)

    def _dice_loss(self, truth: Any, valid: Any, log_probs: Any) -> Any:
        probs = ops.exp(log_probs) * valid
        intersection, total = ops.sum(probs * truth, (1, 2)), ops.sum(probs**2 + truth, (1, 2))
        occurs = ops.cast(ops.any(truth > 0, (1, 2)), log_probs.dtype)
        class_losses = occurs * (1 - 2 * intersection / ops.maximum(total, 1e-6))
        return ops.sum(class_losses, -1) / ops.maximum(ops.sum(occurs, -1), 1.0)


def check_sides(image_side: int, logits_side: int, stride: int) -> None:
    """Check that the logits have one cell per `stride` pixels of the model input.

    Raises:
        UserError: If they do not.
    """
    if image_side is not None and logits_side is not None and image_side != logits_side * stride:
        raise UserError(
            "segment() cannot predict a mask in the size of the image",
            got=f"{logits_side} logits along a side of {image_side} pixels",
            expected=f"one for each {stride} pixels",
            hint="set the backbone's size to a multiple of 32, and use a backbone that pads its input",
        )
