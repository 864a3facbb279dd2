"""Policies that apply several random image operations: RandAugment and AugMix."""

from typing import Any

import tensorflow as tf

from tfx_finetune.datasets.augments.common import check_options, sample_beta
from tfx_finetune.datasets.augments.operations import (
    AUGMIX,
    AUGMIX_PIXELWISE,
    RAND_AUGMENT,
    apply_random_operation,
    make_random_operation_matrix,
)
from tfx_finetune.ops.geometry import has_boxes, has_mask, warp_annotations
from tfx_finetune.ops.image import round_to_uint8
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def rand_augment(operations: int = 2, magnitude: float = 7.0) -> AugmentFn:
    """Apply random operations out of 13, such as rotation, shear and color changes (Cubuk et al., arXiv 1909.13719).

    Args:
        operations: int >= 1. Number of operations in sequence. Default 2.
        magnitude: float, 0 to 10. Strength of the operations. Default 7.
    """
    check_options(
        "rand_augment",
        operations >= 1 and 0 <= magnitude <= 10,
        "operations >= 1, 0 <= magnitude <= 10",
        operations=operations,
        magnitude=magnitude,
    )

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        for position in range(operations):
            operation_seed = tf.random.experimental.stateless_fold_in(seed, position)
            pixels = sample["image"]
            matrix = make_random_operation_matrix(RAND_AUGMENT, tf.shape(pixels), magnitude, operation_seed)
            sample = warp_annotations(sample, matrix)
            sample |= {"image": apply_random_operation(RAND_AUGMENT, pixels, magnitude, operation_seed)}
        return sample

    return apply


@AUGMENTS.register
def augmix(magnitude: float = 3.0, width: int = 3, depth: int = 3, alpha: float = 1.0) -> AugmentFn:
    """Mix an image with chains of random operations on it (Hendrycks et al., arXiv 1912.02781).

    The consistency loss of the paper is not part of it. If a sample has boxes or a mask, only operations that move no
    pixels are used, because the chains would move an object to different positions.

    Args:
        magnitude: float, 0 to 10. Strength of the operations. Default 3.
        width: int >= 1. Number of chains. Default 3.
        depth: int >= 1. Maximum number of operations in a chain. Default 3.
        alpha: float > 0. Parameter of the Dirichlet and Beta distributions of the mixing weights. Default 1.
    """
    check_options(
        "augmix",
        0 <= magnitude <= 10 and width >= 1 and depth >= 1 and alpha > 0,
        "0 <= magnitude <= 10, width >= 1, depth >= 1, alpha > 0",
        magnitude=magnitude,
        width=width,
        depth=depth,
        alpha=alpha,
    )

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        pixels = sample["image"]
        operations = AUGMIX_PIXELWISE if has_boxes(sample) or has_mask(sample) else AUGMIX
        fold_in = tf.random.experimental.stateless_fold_in
        lengths = tf.random.stateless_uniform((width,), fold_in(seed, 0), 1, depth + 1, tf.int32)
        chain_weights = tf.random.stateless_gamma((width,), fold_in(seed, 1), alpha)
        chain_weights /= tf.reduce_sum(chain_weights)
        lam = sample_beta(alpha, fold_in(seed, 2))
        mixed = tf.zeros(tf.shape(pixels))
        for chain in range(width):
            image = pixels
            for step in range(depth):
                step_seed = fold_in(seed, 3 + chain * depth + step)
                image = tf.cond(
                    step < lengths[chain],
                    lambda image=image, step_seed=step_seed: apply_random_operation(
                        operations, image, magnitude, step_seed
                    ),
                    lambda image=image: image,
                )
            mixed += chain_weights[chain] * tf.cast(image, tf.float32)
        return sample | {"image": round_to_uint8(lam * tf.cast(pixels, tf.float32) + (1 - lam) * mixed)}

    return apply
