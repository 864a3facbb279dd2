"""STATION: which samples are the same, or nearly: pictures and recordings by their thumbnails, texts by their words."""

import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tfx_finetune.alignment import likeness
from tfx_finetune.core import progress
from tfx_finetune.looks import Looks

USUAL, USUAL_OF_TEXTS = 0.95, 0.8
_NEIGHBOURS = 10
# Alignment takes about a millisecond a pair.
_MOST_PAIRS = 30_000
# Below this correlation of whole thumbnails, of which a crop has 0.7 and more, nothing was found.
_LEAST = 0.6
# How much nearer than the tenth neighbour a copy is. Where all are alike, as digits are, being near says little.
_STANDS_OUT = 0.3
_COMPONENTS = 64
_SHINGLE = 5
_HASHES, _ROWS = 128, 4
_PRIME = (1 << 31) - 1

Pairs = list[tuple[int, int, float]]
"""(sample, another one behind it, likeness of 0 to 1)."""


def near(looks: Looks, threshold: float) -> Pairs:
    """Pairs that are nearly the same, but not the same: scaled, compressed again, cut a little, brighter; reworded.

    Args:
        looks: Of all samples.
        threshold: Likeness from which a pair is one: the correlation of aligned thumbnails, or the share of common
            pieces of five characters. 0 for what is usual.

    Returns:
        The pairs, the likest first.
    """
    if looks.thumbnails is not None:
        pairs = _near_pictures(looks.thumbnails, threshold or USUAL)
    else:
        pairs = _near_texts(looks.texts, threshold or USUAL_OF_TEXTS)
    different = ((i, j, score) for i, j, score in pairs if looks.prints[i] != looks.prints[j])
    return sorted(different, key=lambda pair: -pair[2])


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Number of the connected group of each sample, (count,)."""
    edges = np.array(list(pairs), int).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def same(keys: Sequence[str] | np.ndarray) -> list[list[int]]:
    """Positions of equal keys, of those that occur more than once; an empty key equals none."""
    found: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        if key:
            found.setdefault(key, []).append(position)
    return [positions for positions in found.values() if len(positions) > 1]


def _near_pictures(thumbnails: np.ndarray, threshold: float) -> Pairs:
    """Neighbours by the whole thumbnail, then what aligning makes of those that stand out most."""
    if (thumbnails == thumbnails[..., :1]).all():  # grey
        thumbnails = thumbnails[..., :1]
    # A picture of one colour is like any other one.
    drawn = np.flatnonzero(thumbnails.reshape(len(thumbnails), -1).std(1) > 2)
    if len(drawn) < 2:
        return []
    thumbnails = thumbnails[drawn]
    first, second, nearness, usual = _neighbours(_described(thumbnails))
    contrast = np.maximum(1 - usual, 1e-6)
    order = np.argsort((1 - nearness) / contrast)
    order = order[nearness[order] > _LEAST]
    if len(order) > _MOST_PAIRS:
        progress.say(f"of {len(order)} pairs of neighbours the {_MOST_PAIRS} nearest are compared")
    chosen = order[:_MOST_PAIRS]
    found = []
    with progress.bar("compare", len(chosen)) as advance:
        for start in range(0, len(chosen), 2_048):
            block = chosen[start : start + 2_048]
            score = likeness(thumbnails[first[block]], thumbnails[second[block]])
            for pair in np.flatnonzero((score >= threshold) & (1 - score < _STANDS_OUT * contrast[block])):
                at = block[pair]
                found.append((int(drawn[first[at]]), int(drawn[second[at]]), float(score[pair])))
            advance(len(block), f"{len(chosen)} pairs")
    return found


def _described(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails of a quarter of the size, without mean and contrast, float32 (n, dim) of length 1."""
    count, side, _, channels = thumbnails.shape
    small = thumbnails.reshape(count, side // 2, 2, side // 2, 2, channels).mean((2, 4), dtype=np.float32)
    flat = small.reshape(count, -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _neighbours(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of neighbours, each once: both positions, their correlation, and that of the first's tenth neighbour."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    count = min(_NEIGHBOURS, len(points) - 1)
    flat = points
    if min(points.shape) > _COMPONENTS:
        flat = PCA(_COMPONENTS, svd_solver="randomized", random_state=0).fit_transform(points).astype(np.float32)
    _, found = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(flat).kneighbors(flat)
    # Among many equal ones, a point may lack itself.
    first = np.repeat(np.arange(len(points)), count + 1)
    second = found.ravel()
    last = np.einsum("ij,ij->i", points, points[found[:, -1]])
    low, high = np.minimum(first, second), np.maximum(first, second)
    pairs = np.unique(np.stack([low, high], 1)[low != high], axis=0)
    nearness = np.einsum("ij,ij->i", points[pairs[:, 0]], points[pairs[:, 1]])
    # Of many copies, the tenth neighbour is one; then what is usual among all is.
    usual = np.minimum(np.minimum(last[pairs[:, 0]], last[pairs[:, 1]]), 0.95 if count < _NEIGHBOURS else 1.0)
    return pairs[:, 0], pairs[:, 1], nearness, usual


def _near_texts(texts: Sequence[str], threshold: float) -> Pairs:
    """Candidates by MinHash in bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, section 3.4), then the
    Jaccard index of their pieces of five characters.
    """
    pieces = [_pieces(text) for text in texts]
    signatures = np.stack([_signature(piece) for piece in pieces]) if pieces else np.zeros((0, _HASHES), np.int64)
    tried = set()
    for band in range(0, _HASHES, _ROWS):
        keys = [row.tobytes() for row in signatures[:, band : band + _ROWS]]
        for positions in same(keys):
            # Of a crowd, each with the next: what is equal throughout is found as such.
            tried |= set(_some_pairs(positions))
    scored = ((i, j, _jaccard(pieces[i], pieces[j])) for i, j in tried)
    return [pair for pair in scored if pair[2] >= threshold]


def _some_pairs(positions: list[int], most: int = 30) -> Iterator[tuple[int, int]]:
    for at, first in enumerate(positions):
        yield from ((first, second) for second in positions[at + 1 : at + 1 + most])


def _pieces(text: str) -> np.ndarray:
    """Hashes of all pieces of five characters, sorted, each once."""
    count = max(len(text) - _SHINGLE + 1, 1)
    return np.unique([zlib.crc32(text[at : at + _SHINGLE].encode()) % _PRIME for at in range(count)])


def _signature(pieces: np.ndarray) -> np.ndarray:
    factors, terms = np.random.default_rng(0).integers(1, _PRIME, (2, _HASHES, 1))
    return ((pieces * factors + terms) % _PRIME).min(1)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
