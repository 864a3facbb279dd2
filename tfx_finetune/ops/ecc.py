"""How alike two small pictures are once one is stretched and moved onto the other, in NumPy, many pairs at once."""

import numpy as np

_STEPS = 5
# A crop takes so much at most of a side, here in halves of a picture.
_MAX_SHIFT = 0.2
_BATCH_SIZE = 256


def ecc_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of pairs of pictures, each second one stretched and moved along both axes to where it is highest.

    Gauss-Newton steps on the normalized difference, from coarse to fine: the enhanced correlation coefficient of
    Evangelidis and Psarakis (IEEE TPAMI 30(10), 2008) with four parameters. Brightness and contrast make no
    difference.

    Args:
        first: uint8 (pairs, side, side, channels), `side` an even number.
        second: As `first`.

    Returns:
        float32 (pairs,) of -1 to 1.
    """
    found = [
        _compute_similarity(
            first[start : start + _BATCH_SIZE].astype(np.float32),
            second[start : start + _BATCH_SIZE].astype(np.float32),
        )
        for start in range(0, len(first), _BATCH_SIZE)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def _compute_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    start = np.zeros((len(first), 4), np.float32)
    _, coarse = _maximize_ecc(downsample_by_two(first), downsample_by_two(second), start, _STEPS)
    moved, _ = _maximize_ecc(first, second, coarse, _STEPS)
    still, _ = _maximize_ecc(first, second, start, _STEPS)
    return np.maximum(moved, still)


def _maximize_ecc(a: np.ndarray, b: np.ndarray, warp_params: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest correlation on the way, and where that was: (pairs, 4) of widening and shift, along x and along y."""
    side = a.shape[1]
    slope_y, slope_x = np.gradient(b, 2 / side, axis=(1, 2))
    places = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1)[None, :, None]
    best, where = np.full(len(a), -1, np.float32), warp_params
    for step in range(steps + 1):
        (along_x, inside_x), (along_y, inside_y) = (
            _make_interpolation(warp_params[:, :2], side),
            _make_interpolation(warp_params[:, 2:], side),
        )
        inside = (inside_y[:, :, None] & inside_x[:, None, :])[..., None].astype(np.float32)
        target, _ = _normalize(a, inside)
        warped, length = _normalize(_warp(b, along_y, along_x), inside)
        score = (target * warped).sum((1, 2, 3))
        where = np.where((score > best)[:, None], warp_params, where)
        best = np.maximum(best, score)
        if step < steps:
            x = _warp(slope_x, along_y, along_x) * inside / length
            y = _warp(slope_y, along_y, along_x) * inside / length
            slopes = np.stack([x * places[:, None], x, y * places[:, :, None], y], -1).reshape(len(a), -1, 4)
            warp_params = np.clip(
                warp_params + _solve_least_squares(slopes, (target - warped).reshape(len(a), -1, 1)),
                -_MAX_SHIFT,
                _MAX_SHIFT,
            )
    return best, where


def _solve_least_squares(jacobian: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Least squares, damped, of each pair: slopes (pairs, n, 4), rest (pairs, n, 1) -> (pairs, 4)."""
    turned = jacobian.transpose(0, 2, 1)
    squares = turned @ jacobian
    damping = 1e-3 * np.trace(squares, axis1=1, axis2=2)[:, None, None] + 1e-6
    return np.linalg.solve(squares + np.eye(4, dtype=np.float32) * damping, turned @ residual)[..., 0]


def _make_interpolation(warp_params: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear interpolation along an axis as matrices (pairs, side, side), and what lies inside, (pairs, side)."""
    places = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    wanted = ((1 + warp_params[:, :1]) * places + warp_params[:, 1:] + 1) / 2 * side - 0.5
    inside = (wanted > -0.5) & (wanted < side - 0.5)
    nearest = np.clip(wanted, 0, side - 1)[:, :, None] - np.arange(side, dtype=np.float32)
    return np.maximum(0, 1 - np.abs(nearest)), inside


def _warp(pictures: np.ndarray, along_y: np.ndarray, along_x: np.ndarray) -> np.ndarray:
    # Matrix products of (pairs, channels, side, side).
    planes = pictures.transpose(0, 3, 1, 2)
    return (along_y[:, None] @ planes @ along_x[:, None].transpose(0, 1, 3, 2)).transpose(0, 2, 3, 1)


def _normalize(pictures: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures less their mean, of length 1, both over what lies inside; and the length."""
    count = inside.sum((1, 2, 3), keepdims=True) * pictures.shape[-1]
    centred = (pictures - (pictures * inside).sum((1, 2, 3), keepdims=True) / count) * inside
    length = np.sqrt(np.square(centred).sum((1, 2, 3), keepdims=True)) + 1e-3
    return centred / length, length


def downsample_by_two(pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, side, side, channels) at half the side, the mean of each four pixels, float32."""
    count, side, _, channels = pictures.shape
    return pictures.reshape(count, side // 2, 2, side // 2, 2, channels).mean((2, 4), dtype=np.float32)
