"""Which samples are the same, or nearly: pictures and recordings by their thumbnails, texts by their words."""

import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tfx_finetune.core import progress
from tfx_finetune.data.fingerprints import SampleStatistics
from tfx_finetune.ops.ecc import downsample_by_two, ecc_similarity

DEFAULT_THRESHOLD, DEFAULT_TEXT_THRESHOLD = 0.95, 0.8
_NUM_NEIGHBORS = 10
# Alignment takes about a millisecond a pair.
_MAX_PAIRS = 30_000
# Below this correlation of whole thumbnails, of which a crop has 0.7 and more, nothing was found.
_MIN_CORRELATION = 0.6
# How far apart a pair may be: as a share of the distance to the likest one that is no copy (the ratio test of Lowe,
# IJCV 60(2), 2004), and to the tenth neighbour. Where all are alike, as digits are, being near says little.
_NEAREST_RATIO, _TENTH_RATIO = 0.4, 0.3
_NUM_COMPONENTS = 64
_SHINGLE_LENGTH = 5
_NUM_HASHES, _ROWS_PER_BAND = 128, 4
_PRIME = (1 << 31) - 1

SimilarPairs = list[tuple[int, int, float]]
"""(sample, another one behind it, likeness of 0 to 1)."""


def find_near_duplicate_pairs(statistics: SampleStatistics, threshold: float) -> SimilarPairs:
    """Pairs that are nearly the same, but not the same: scaled, compressed again, cut a little, brighter; reworded.

    Args:
        looks: Of all samples.
        threshold: Likeness from which a pair is one: the correlation of aligned thumbnails, or the share of common
            pieces of five characters. 0 for what is usual.

    Returns:
        The pairs, the likest first. Of a picture with ten near copies or more, they are usual, and not found.
    """
    # One of each content: copies would be one another's neighbours.
    rows = np.sort(np.unique(statistics.content_hashes.astype(str), return_index=True)[1])
    if statistics.thumbnails is not None:
        pairs = _find_near_images(statistics.thumbnails[rows], threshold or DEFAULT_THRESHOLD)
    else:
        pairs = _find_near_texts(
            [statistics.texts[row] for row in rows] if statistics.texts else [], threshold or DEFAULT_TEXT_THRESHOLD
        )
    return sorted(((int(rows[i]), int(rows[j]), score) for i, j, score in pairs), key=lambda pair: -pair[2])


def group_pairs(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Number of the connected group of each sample, (count,)."""
    # SciPy before 1.12 takes indices of 32 bits alone.
    edges = np.array(list(pairs), np.int32).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def group_equal(keys: Sequence[str] | np.ndarray) -> list[list[int]]:
    """Positions of equal keys, of those that occur more than once; an empty key equals none."""
    found: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        if key:
            found.setdefault(key, []).append(position)
    return [positions for positions in found.values() if len(positions) > 1]


def _find_near_images(thumbnails: np.ndarray, threshold: float) -> SimilarPairs:
    """Neighbours by the whole thumbnail, then what aligning makes of those that stand out most."""
    if (thumbnails == thumbnails[..., :1]).all():  # grey
        thumbnails = thumbnails[..., :1]
    # A picture of one colour is like any other one.
    drawn = np.flatnonzero(thumbnails.reshape(len(thumbnails), -1).std(1) > 2)
    if len(drawn) < 2:
        return []
    thumbnails = thumbnails[drawn]
    points = _embed_thumbnails(thumbnails)
    around = _find_neighbors(points)
    pairs = _rank_candidates(points, around)
    if len(pairs) > _MAX_PAIRS:
        progress.log(f"of {len(pairs)} pairs of neighbours the {_MAX_PAIRS} that stand out most are compared")
    pairs = pairs[:_MAX_PAIRS]
    score = _compute_similarity(thumbnails, pairs, "compare")
    pairs, score = pairs[score >= threshold], score[score >= threshold]
    ends, place = np.unique(pairs, return_inverse=True)
    if not len(ends):
        return []
    beside = np.stack([np.repeat(ends, around.shape[1]), around[ends].ravel()], 1)
    others = _compute_similarity(thumbnails, beside, "others").reshape(len(ends), -1)
    # The likest one that is no copy; where all around are copies, nothing speaks against them.
    likest = 1 - np.where(others < threshold, others, -np.inf).max(1)
    reach = np.minimum(_NEAREST_RATIO * likest, _TENTH_RATIO * (1 - _tenth_similarity(points, around)[ends]))
    apart = 1 - score < reach[place.reshape(pairs.shape)].min(1)
    return [(int(drawn[i]), int(drawn[j]), float(s)) for (i, j), s in zip(pairs[apart], score[apart], strict=True)]


def _rank_candidates(embeddings: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Pairs of neighbours (pairs, 2), each once, those first that are nearest, by what is usual around them."""
    each = np.stack([np.repeat(np.arange(len(embeddings)), neighbors.shape[1]), neighbors.ravel()], 1)
    each = np.unique(np.sort(each[each[:, 0] != each[:, 1]], axis=1), axis=0)
    near = np.einsum("ij,ij->i", embeddings[each[:, 0]], embeddings[each[:, 1]])
    usual = _tenth_similarity(embeddings, neighbors)[each].min(1)
    order = np.argsort((1 - near) / np.maximum(1 - usual, 1e-6), kind="stable")
    return each[order[near[order] > _MIN_CORRELATION]]


def _tenth_similarity(embeddings: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """How near the last of its neighbours is to each point, unless all points are its neighbours, (n,)."""
    if neighbors.shape[1] < _NUM_NEIGHBORS:
        return np.zeros(len(embeddings), np.float32)
    return np.einsum("ij,ij->i", embeddings, embeddings[neighbors[:, -1]])


def _compute_similarity(thumbnails: np.ndarray, pairs: np.ndarray, title: str) -> np.ndarray:
    """Likeness of pairs of thumbnails once aligned, (pairs,)."""
    found = [np.zeros(0, np.float32)]
    with progress.bar(title, len(pairs)) as advance:
        for start in range(0, len(pairs), 1_024):
            block = pairs[start : start + 1_024]
            found.append(ecc_similarity(thumbnails[block[:, 0]], thumbnails[block[:, 1]]))
            advance(len(block), f"{len(pairs)} pairs")
    return np.concatenate(found)


def _embed_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails of a quarter of the size, without mean and contrast, float32 (n, dim) of length 1."""
    flat = downsample_by_two(thumbnails).reshape(len(thumbnails), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _find_neighbors(embeddings: np.ndarray) -> np.ndarray:
    """The nearest ten of each point, the nearest first, (n, 10)."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    flat = embeddings
    if min(embeddings.shape) > _NUM_COMPONENTS:
        flat = (
            PCA(_NUM_COMPONENTS, svd_solver="randomized", random_state=0).fit_transform(embeddings).astype(np.float32)
        )
    finder = NearestNeighbors(n_neighbors=min(_NUM_NEIGHBORS, len(embeddings) - 1), algorithm="brute").fit(flat)
    return finder.kneighbors(return_distance=False)


def _find_near_texts(texts: Sequence[str], threshold: float) -> SimilarPairs:
    """Candidates by MinHash in bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, section 3.4), then the
    Jaccard index of their pieces of five characters.
    """
    pieces = [_hash_shingles(text) for text in texts]
    signatures = (
        np.stack([_compute_minhash(piece) for piece in pieces]) if pieces else np.zeros((0, _NUM_HASHES), np.int64)
    )
    tried = set()
    for band in range(0, _NUM_HASHES, _ROWS_PER_BAND):
        keys = [row.tobytes() for row in signatures[:, band : band + _ROWS_PER_BAND]]
        for positions in group_equal(keys):
            # Of a crowd, each with the next ones.
            tried |= set(_iter_pairs(positions))
    scored = ((i, j, _jaccard(pieces[i], pieces[j])) for i, j in tried)
    return [pair for pair in scored if pair[2] >= threshold]


def _iter_pairs(positions: list[int], max_partners: int = 30) -> Iterator[tuple[int, int]]:
    for at, first in enumerate(positions):
        yield from ((first, second) for second in positions[at + 1 : at + 1 + max_partners])


def _hash_shingles(text: str) -> np.ndarray:
    """Hashes of all pieces of five characters, sorted, each once."""
    count = max(len(text) - _SHINGLE_LENGTH + 1, 1)
    return np.unique([zlib.crc32(text[at : at + _SHINGLE_LENGTH].encode()) % _PRIME for at in range(count)])


def _compute_minhash(shingles: np.ndarray) -> np.ndarray:
    factors, terms = np.random.default_rng(0).integers(1, _PRIME, (2, _NUM_HASHES, 1))
    return ((shingles * factors + terms) % _PRIME).min(1)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
