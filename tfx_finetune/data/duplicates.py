"""Find near-duplicates: images and audio by aligned thumbnails, texts by shared character shingles."""

import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tfx_finetune.core import progress
from tfx_finetune.data.fingerprints import SampleStatistics
from tfx_finetune.ops.ecc import downsample_by_two, ecc_similarity

DEFAULT_THRESHOLD, DEFAULT_TEXT_THRESHOLD = 0.95, 0.8
"""Minimum similarity of near-duplicate images or audio, and of near-duplicate texts."""
_NUM_NEIGHBORS = 10
# The alignment of a pair takes about 1 ms.
_MAX_PAIRS = 30_000
# Pairs with a lower correlation of their unaligned thumbnails are skipped; crops have a correlation of 0.7 or more.
_MIN_CORRELATION = 0.6
# Maximum distance of a pair, relative to the distance to the most similar sample that is no near-duplicate (ratio test
# of Lowe, IJCV 60(2), 2004), and to the tenth neighbor. In data sets such as digits, all samples are similar.
_NEAREST_RATIO, _TENTH_RATIO = 0.4, 0.3
_NUM_COMPONENTS = 64
_SHINGLE_LENGTH = 5
_NUM_HASHES, _ROWS_PER_BAND = 128, 4
_PRIME = (1 << 31) - 1

SimilarPairs = list[tuple[int, int, float]]
"""(index of a sample, larger index of another sample, similarity in [0, 1])."""


def find_near_duplicate_pairs(statistics: SampleStatistics, threshold: float) -> SimilarPairs:
    """Return pairs of near-duplicates: rescaled, recompressed, cropped, brightened images and audio; reworded texts.

    Exact duplicates are no near-duplicates. A sample with ten or more near-duplicates is regarded as one of many
    similar samples; its near-duplicates are not found.

    Args:
        statistics: Statistics of the samples.
        threshold: float in [0, 1]. Minimum similarity: the correlation of aligned thumbnails, or the Jaccard index of
            5-character shingles. 0: the default of the modality.

    Returns:
        The pairs, the most similar first.
    """
    # One sample per content, because exact duplicates would be one another's nearest neighbors.
    rows = np.sort(np.unique(statistics.content_hashes.astype(str), return_index=True)[1])
    if statistics.thumbnails is not None:
        pairs = _find_near_images(statistics.thumbnails[rows], threshold or DEFAULT_THRESHOLD)
    else:
        pairs = _find_near_texts(
            [statistics.texts[row] for row in rows] if statistics.texts else [], threshold or DEFAULT_TEXT_THRESHOLD
        )
    return sorted(((int(rows[i]), int(rows[j]), score) for i, j, score in pairs), key=lambda pair: -pair[2])


def group_pairs(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return the connected component of each sample, int (count,).

    Args:
        count: int >= 0. Number of samples.
        pairs: Pairs of sample indices to connect.

    Examples:
        >>> group_pairs(5, [(0, 1), (1, 3)]).tolist()
        [0, 0, 1, 0, 2]
    """
    # SciPy before 1.12 requires 32-bit indices.
    edges = np.array(list(pairs), np.int32).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def group_equal(keys: Sequence[str] | np.ndarray) -> list[list[int]]:
    """Return the indices of equal keys, one list for every key that occurs more than once; empty keys are skipped.

    Args:
        keys: Keys of the samples.

    Examples:
        >>> group_equal(["a", "", "b", "a", ""])
        [[0, 3]]
    """
    indices_by_key: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        if key:
            indices_by_key.setdefault(key, []).append(index)
    return [indices for indices in indices_by_key.values() if len(indices) > 1]


def _find_near_images(thumbnails: np.ndarray, threshold: float) -> SimilarPairs:
    """Find nearest neighbors by unaligned thumbnails, then align and compare the most prominent pairs."""
    if (thumbnails == thumbnails[..., :1]).all():  # grayscale
        thumbnails = thumbnails[..., :1]
    # Images of one color correlate with any other image.
    rows = np.flatnonzero(thumbnails.reshape(len(thumbnails), -1).std(1) > 2)
    if len(rows) < 2:
        return []
    thumbnails = thumbnails[rows]
    embeddings = _embed_thumbnails(thumbnails)
    neighbors = _find_neighbors(embeddings)
    pairs = _rank_candidates(embeddings, neighbors)
    if len(pairs) > _MAX_PAIRS:
        progress.log(f"compares the {_MAX_PAIRS} most prominent of {len(pairs)} pairs of neighbors")
    pairs = pairs[:_MAX_PAIRS]
    similarities = _compute_similarity(thumbnails, pairs, "compare")
    pairs, similarities = pairs[similarities >= threshold], similarities[similarities >= threshold]
    members, member_ids = np.unique(pairs, return_inverse=True)
    if not len(members):
        return []
    neighbor_pairs = np.stack([np.repeat(members, neighbors.shape[1]), neighbors[members].ravel()], 1)
    neighbor_similarities = _compute_similarity(thumbnails, neighbor_pairs, "verify").reshape(len(members), -1)
    # Distance to the most similar neighbor that is no near-duplicate; infinite if all neighbors are near-duplicates.
    nearest_distances = 1 - np.where(neighbor_similarities < threshold, neighbor_similarities, -np.inf).max(1)
    tenth_distances = 1 - _tenth_similarity(embeddings, neighbors)[members]
    max_distances = np.minimum(_NEAREST_RATIO * nearest_distances, _TENTH_RATIO * tenth_distances)
    is_prominent = 1 - similarities < max_distances[member_ids.reshape(pairs.shape)].min(1)
    return [
        (int(rows[i]), int(rows[j]), float(similarity))
        for (i, j), similarity in zip(pairs[is_prominent], similarities[is_prominent], strict=True)
    ]


def _rank_candidates(embeddings: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Return each pair of neighbors once, (pairs, 2), sorted by distance relative to the tenth neighbor's."""
    pairs = np.stack([np.repeat(np.arange(len(embeddings)), neighbors.shape[1]), neighbors.ravel()], 1)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    similarities = np.einsum("ij,ij->i", embeddings[pairs[:, 0]], embeddings[pairs[:, 1]])
    tenth_similarities = _tenth_similarity(embeddings, neighbors)[pairs].min(1)
    order = np.argsort((1 - similarities) / np.maximum(1 - tenth_similarities, 1e-6), kind="stable")
    return pairs[order[similarities[order] > _MIN_CORRELATION]]


def _tenth_similarity(embeddings: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Return the similarity of each sample to its tenth neighbor, (n,); 0 if there are fewer than ten neighbors."""
    if neighbors.shape[1] < _NUM_NEIGHBORS:
        return np.zeros(len(embeddings), np.float32)
    return np.einsum("ij,ij->i", embeddings, embeddings[neighbors[:, -1]])


def _compute_similarity(thumbnails: np.ndarray, pairs: np.ndarray, title: str) -> np.ndarray:
    """Return the correlation of aligned thumbnails for each pair, float32 (pairs,)."""
    similarities = [np.zeros(0, np.float32)]
    with progress.bar(title, len(pairs)) as advance:
        for start in range(0, len(pairs), 1_024):
            batch = pairs[start : start + 1_024]
            similarities.append(ecc_similarity(thumbnails[batch[:, 0]], thumbnails[batch[:, 1]]))
            advance(len(batch), f"{len(pairs)} pairs")
    return np.concatenate(similarities)


def _embed_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """Return downsampled thumbnails as unit vectors with mean 0, float32 (n, dim)."""
    flat = downsample_by_two(thumbnails).reshape(len(thumbnails), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _find_neighbors(embeddings: np.ndarray) -> np.ndarray:
    """Return the ten nearest neighbors of each sample, nearest first, int (n, 10)."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    components = embeddings
    if min(embeddings.shape) > _NUM_COMPONENTS:
        pca = PCA(_NUM_COMPONENTS, svd_solver="randomized", random_state=0)
        components = pca.fit_transform(embeddings).astype(np.float32)
    num_neighbors = min(_NUM_NEIGHBORS, len(embeddings) - 1)
    index = NearestNeighbors(n_neighbors=num_neighbors, algorithm="brute").fit(components)
    return index.kneighbors(return_distance=False)


def _find_near_texts(texts: Sequence[str], threshold: float) -> SimilarPairs:
    """Find candidate pairs by MinHash with banding, then compare them by the Jaccard index of their shingles.

    Sources: Broder, 1997; Leskovec et al., Mining of Massive Datasets, section 3.4.
    """
    shingles = [_hash_shingles(text) for text in texts]
    signatures = np.zeros((0, _NUM_HASHES), np.int64)
    if shingles:
        signatures = np.stack([_compute_minhash(hashes) for hashes in shingles])
    candidates = set()
    for band in range(0, _NUM_HASHES, _ROWS_PER_BAND):
        keys = [row.tobytes() for row in signatures[:, band : band + _ROWS_PER_BAND]]
        for indices in group_equal(keys):
            candidates |= set(_iter_pairs(indices))
    pairs = ((i, j, _jaccard(shingles[i], shingles[j])) for i, j in candidates)
    return [pair for pair in pairs if pair[2] >= threshold]


def _iter_pairs(indices: list[int], max_partners: int = 30) -> Iterator[tuple[int, int]]:
    """Yield pairs of each index with the next `max_partners` indices, which bounds the pairs of large groups."""
    for start, first in enumerate(indices, 1):
        yield from ((first, second) for second in indices[start : start + max_partners])


def _hash_shingles(text: str) -> np.ndarray:
    """Return the sorted unique hashes of all 5-character shingles of a text."""
    count = max(len(text) - _SHINGLE_LENGTH + 1, 1)
    return np.unique([zlib.crc32(text[start : start + _SHINGLE_LENGTH].encode()) % _PRIME for start in range(count)])


def _compute_minhash(shingles: np.ndarray) -> np.ndarray:
    """Return the MinHash signature of a set of shingle hashes, int64 (128,)."""
    factors, terms = np.random.default_rng(0).integers(1, _PRIME, (2, _NUM_HASHES, 1))
    return ((shingles * factors + terms) % _PRIME).min(1)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Jaccard index of two sets."""
    intersection = len(np.intersect1d(a, b, assume_unique=True))
    return intersection / (len(a) + len(b) - intersection)
