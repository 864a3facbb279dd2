"""AugMix (Hendrycks et al., arXiv 1912.02781), without its consistency loss."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.operations import AUGMIX, AUGMIX_PIXELWISE, apply_random_operation
from tfx_finetune.ops.geometry import has_boxes, has_mask
from tfx_finetune.ops.pixels import round_to_uint8
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def augmix(magnitude: float = 3.0, width: int = 3, depth: int = 3, alpha: float = 1.0) -> AugmentFn:
    """Mixes a picture with several chains of changes of it.

    Where a sample has boxes or a mask, with changes alone that move nothing: one box is not in several places.

    Args:
        magnitude: How strong each change is, 0 to 10.
        width: Chains, 1 or more.
        depth: Most changes in a chain, 1 or more.
        alpha: Of the Dirichlet and Beta distributions that the shares are drawn from, above 0.
    """
    if not 0 <= magnitude <= 10 or width < 1 or depth < 1 or alpha <= 0:
        received = f"magnitude={magnitude}, width={width}, depth={depth}, alpha={alpha}"
        raise UserError("augmix is out of range", got=received, expected="0 to 10, 1 or more, 1 or more, above 0")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        pixels = sample["image"]
        operations = AUGMIX_PIXELWISE if has_boxes(sample) or has_mask(sample) else AUGMIX
        fold = tf.random.experimental.stateless_fold_in
        lengths = tf.random.stateless_uniform((width,), fold(seed, 0), 1, depth + 1, tf.int32)
        shares = tf.random.stateless_gamma((width,), fold(seed, 1), alpha)
        shares /= tf.reduce_sum(shares)
        two = tf.random.stateless_gamma((2,), fold(seed, 2), alpha)
        mixed = tf.zeros(tf.shape(pixels))
        for chain in range(width):
            changed = pixels
            for link in range(depth):
                drawn = fold(seed, 3 + chain * depth + link)
                changed = tf.cond(
                    link < lengths[chain],
                    lambda changed=changed, drawn=drawn: apply_random_operation(operations, changed, magnitude, drawn),
                    lambda changed=changed: changed,
                )
            mixed += shares[chain] * tf.cast(changed, tf.float32)
        kept = two[0] / tf.reduce_sum(two)
        return sample | {"image": round_to_uint8(kept * tf.cast(pixels, tf.float32) + (1 - kept) * mixed)}

    return apply
