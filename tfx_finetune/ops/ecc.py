"""Similarity of small images after alignment, in NumPy, for many pairs at once."""

import numpy as np

_STEPS = 5
# Maximum shift and stretch, in half sides of the image. A crop moves its content by no more than this.
_MAX_SHIFT = 0.2
_BATCH_SIZE = 256


def ecc_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the enhanced correlation coefficient (ECC) of pairs of images.

    The second image is stretched and shifted along both axes to the maximum of the correlation, with Gauss-Newton
    steps on the normalized difference from coarse to fine (Evangelidis and Psarakis, IEEE TPAMI 30(10), 2008, with
    four parameters). The result does not depend on brightness and contrast.

    Args:
        first: uint8 (pairs, side, side, channels). The side is even.
        second: uint8 (pairs, side, side, channels).

    Returns:
        float32 (pairs,), -1 to 1.

    Examples:
        >>> images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1)).astype(np.uint8)
        >>> ecc_similarity(images, images).round(2).tolist()
        [1.0]
    """
    batches = [
        _compute_similarity(
            first[start : start + _BATCH_SIZE].astype(np.float32),
            second[start : start + _BATCH_SIZE].astype(np.float32),
        )
        for start in range(0, len(first), _BATCH_SIZE)
    ]
    return np.concatenate(batches) if batches else np.zeros(0, np.float32)


def _compute_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    identity = np.zeros((len(first), 4), np.float32)
    _, coarse_params = _maximize_ecc(downsample_by_two(first), downsample_by_two(second), identity, _STEPS)
    from_coarse, _ = _maximize_ecc(first, second, coarse_params, _STEPS)
    from_identity, _ = _maximize_ecc(first, second, identity, _STEPS)
    return np.maximum(from_coarse, from_identity)


def _maximize_ecc(a: np.ndarray, b: np.ndarray, warp_params: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Maximize the correlation of `a` and the warped `b`.

    Args:
        a: float32 (pairs, side, side, channels).
        b: float32 (pairs, side, side, channels).
        warp_params: float32 (pairs, 4). Initial stretch and shift along x, then along y.
        steps: int >= 0. Number of Gauss-Newton steps.

    Returns:
        The highest correlation (pairs,) of all steps and its parameters (pairs, 4).
    """
    side = a.shape[1]
    gradient_y, gradient_x = np.gradient(b, 2 / side, axis=(1, 2))
    positions = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1)[None, :, None]
    best_score, best_params = np.full(len(a), -1, np.float32), warp_params
    for step in range(steps + 1):
        weights_x, inside_x = _make_interpolation(warp_params[:, :2], side)
        weights_y, inside_y = _make_interpolation(warp_params[:, 2:], side)
        inside = (inside_y[:, :, None] & inside_x[:, None, :])[..., None].astype(np.float32)
        target, _ = _normalize(a, inside)
        warped, norm = _normalize(_warp(b, weights_y, weights_x), inside)
        score = (target * warped).sum((1, 2, 3))
        best_params = np.where((score > best_score)[:, None], warp_params, best_params)
        best_score = np.maximum(best_score, score)
        if step < steps:
            x = _warp(gradient_x, weights_y, weights_x) * inside / norm
            y = _warp(gradient_y, weights_y, weights_x) * inside / norm
            jacobian = np.stack([x * positions[:, None], x, y * positions[:, :, None], y], -1).reshape(len(a), -1, 4)
            update = _solve_least_squares(jacobian, (target - warped).reshape(len(a), -1, 1))
            warp_params = np.clip(warp_params + update, -_MAX_SHIFT, _MAX_SHIFT)
    return best_score, best_params


def _solve_least_squares(jacobian: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Solve damped least squares for each pair: jacobian (pairs, n, 4), residual (pairs, n, 1) -> (pairs, 4)."""
    transposed = jacobian.transpose(0, 2, 1)
    gram = transposed @ jacobian
    damping = 1e-3 * np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-6
    return np.linalg.solve(gram + np.eye(4, dtype=np.float32) * damping, transposed @ residual)[..., 0]


def _make_interpolation(warp_params: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Make linear interpolation along one axis.

    Args:
        warp_params: float32 (pairs, 2). Stretch and shift along the axis.
        side: int. Number of pixels along the axis.

    Returns:
        Interpolation matrices (pairs, side, side), and a mask (pairs, side) of the positions inside the image.
    """
    positions = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    source = ((1 + warp_params[:, :1]) * positions + warp_params[:, 1:] + 1) / 2 * side - 0.5
    inside = (source > -0.5) & (source < side - 0.5)
    distance = np.clip(source, 0, side - 1)[:, :, None] - np.arange(side, dtype=np.float32)
    return np.maximum(0, 1 - np.abs(distance)), inside


def _warp(images: np.ndarray, weights_y: np.ndarray, weights_x: np.ndarray) -> np.ndarray:
    # Matrix products of (pairs, channels, side, side).
    planes = images.transpose(0, 3, 1, 2)
    return (weights_y[:, None] @ planes @ weights_x[:, None].transpose(0, 1, 3, 2)).transpose(0, 2, 3, 1)


def _normalize(images: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the mean and divide by the norm, both over the pixels inside; return the norm as well."""
    count = inside.sum((1, 2, 3), keepdims=True) * images.shape[-1]
    centered = (images - (images * inside).sum((1, 2, 3), keepdims=True) / count) * inside
    norm = np.sqrt(np.square(centered).sum((1, 2, 3), keepdims=True)) + 1e-3
    return centered / norm, norm


def downsample_by_two(images: np.ndarray) -> np.ndarray:
    """Average blocks of 2 x 2 pixels.

    Args:
        images: (n, side, side, channels). The side is even.

    Returns:
        float32 (n, side / 2, side / 2, channels).
    """
    count, side, _, channels = images.shape
    return images.reshape(count, side // 2, 2, side // 2, 2, channels).mean((2, 4), dtype=np.float32)
