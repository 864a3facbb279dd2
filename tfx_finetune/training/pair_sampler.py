"""Sampling of positives for auxiliary losses: samples that are added to a training batch, positive pairs first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.tf_data import parallel_map
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.table import UNLABELED, Table
from tfx_finetune.types.training import UNKNOWN_ID, Objective

SAMPLE_INDEX = "sample_index"
"""Target that holds the index of a training sample, until `PairSampler` replaces it."""
PAIR_SPLITS = ("train", UNLABELED)
"""Splits from which positives are sampled, in the order of sample indices."""


def objective_output_name(objective: str) -> str:
    """Return the name of the output and target of an objective.

    Examples:
        >>> objective_output_name("align")
        'objectives/align'
    """
    return f"objectives/{objective}"


def compute_group_and_domain_ids(table: Table, column: str) -> np.ndarray:
    """Compute the group ID and the domain ID of the samples of `PAIR_SPLITS`, training samples first.

    Args:
        table: Table of the samples.
        column: Name of the domain column.

    Returns:
        int array (n, 2); `UNKNOWN_ID` if the group or the domain of a sample is unknown.
    """
    rows = np.concatenate([np.flatnonzero(table.split == split) for split in PAIR_SPLITS])
    return np.stack([_encode_values(table.columns[name][rows]) for name in ("group", column)], axis=1)


def count_domains(table: Table, objective: Objective) -> int:
    """Count the domains of an objective among the samples of `PAIR_SPLITS`.

    Raises:
        UserError: If there are fewer than two domains, or no positive pair although the objective needs them.
    """
    ids = compute_group_and_domain_ids(table, objective.column)
    count = int(ids[:, 1].max()) + 1
    if count < 2:
        message = f"An auxiliary loss needs several values in the column {objective.column}"
        raise UserError(message, got=count, hint="Add data with other values, or leave the auxiliary loss out")
    if objective.needs_positives and not index_positives(ids).num_positives.any():
        message = f"No training sample shares its group with a sample of another {objective.column}"
        raise UserError(message, hint="Give the data a column `group` with one value per concept")
    return count


@dataclass(frozen=True, eq=False)
class PositiveIndex:
    """Index of the positives of each sample: samples of the same group in other domains.

    The samples are sorted by group and domain, so that the positives of a sample are its group without a run in the
    middle.

    Attributes:
        sorted_indices: int array (n,). Samples sorted by group and domain.
        num_positives: int array (n,). Number of positives of each sample.
        group_start: int array (n,). Position in `sorted_indices` where the group of each sample starts.
        same_domain_start: int array (n,). Position where the samples of the same group and domain start.
        same_domain_size: int array (n,). Number of samples of the same group and domain.
    """

    sorted_indices: np.ndarray
    num_positives: np.ndarray
    group_start: np.ndarray
    same_domain_start: np.ndarray
    same_domain_size: np.ndarray

    def sample(self, indices: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Sample one positive of each sample; an arbitrary sample if it has none.

        Args:
            indices: int array (k,). Sample indices.
            uniform: float array (k,), 0 to 1, 1 excluded. Random numbers.
        """
        position = self.group_start[indices] + (uniform * self.num_positives[indices]).astype(int)
        skip = position >= self.same_domain_start[indices]
        position = np.where(skip, position + self.same_domain_size[indices], position)
        return self.sorted_indices[np.where(self.num_positives[indices] > 0, position, 0)]


def index_positives(ids: np.ndarray) -> PositiveIndex:
    """Build the index of positives.

    Args:
        ids: int array (n, 2). Group ID and domain ID of each sample.

    Examples:
        >>> index_positives(np.array([[0, 0], [0, 1], [0, 2], [1, 0]])).num_positives.tolist()
        [2, 2, 2, 0]
    """
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    group_start, group_size, same_domain_start, same_domain_size = (np.empty(len(ids), int) for _ in range(4))
    group_start[order], group_size[order] = _find_runs(ids[order, :1])
    same_domain_start[order], same_domain_size[order] = _find_runs(ids[order])
    is_known = (ids != UNKNOWN_ID).all(axis=1)
    num_positives = np.where(is_known, group_size - same_domain_size, 0)
    return PositiveIndex(order, num_positives, group_start, same_domain_start, same_domain_size)


class PairSampler:
    """Sampler that appends samples to training batches: positives of each sample, or random samples.

    Appended samples have weight 0 in the loss of the labels. If an objective propagates labels, positives have the
    label of their anchor.

    Args:
        stores: Features of each split of `PAIR_SPLITS`; None if the split is empty.
        table: Table of the samples.
        objectives: Objectives by name.
        seed: Seed of the run.
    """

    def __init__(
        self, stores: Sequence[FeatureStore | None], table: Table, objectives: Mapping[str, Objective], seed: int
    ) -> None:
        self.stores, self.seed = [store for store in stores if store], seed
        self.ids = {
            objective_output_name(name): compute_group_and_domain_ids(table, objective.column)
            for name, objective in objectives.items()
        }
        self.propagate_labels = any(objective.propagate_labels for objective in objectives.values())
        self.num_positives = max(objective.num_positives for objective in objectives.values())
        self.num_labeled = table.size("train")
        contrastive = [
            objective_output_name(name) for name, objective in objectives.items() if objective.needs_positives
        ]
        self.positive_index = index_positives(self.ids[contrastive[0]]) if contrastive else None
        self.num_samples = len(next(iter(self.ids.values())))

    def sample_positives(self, indices: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample one sample to append for each training sample.

        A sample without a positive gets a random sample without a label, or any random sample if all have labels.

        Args:
            indices: int array (k,). Indices of training samples.
            step: int >= 0. Number of the batch, which seeds the random numbers.

        Returns:
            Indices (k,) of the sampled samples, and a boolean mask (k,) of those that are positives.
        """
        rng = np.random.default_rng((self.seed, step))
        uniform = rng.random(len(indices))
        first = self.num_labeled if self.num_samples > self.num_labeled else 0
        random_samples = first + (rng.random(len(indices)) * (self.num_samples - first)).astype(int)
        if not self.positive_index:
            return random_samples, np.zeros(len(indices), bool)
        is_positive = self.positive_index.num_positives[indices] > 0
        return np.where(is_positive, self.positive_index.sample(indices, uniform), random_samples), is_positive

    def append_positives(self, batches: tf.data.Dataset, first_epoch: int, steps_per_epoch: int) -> tf.data.Dataset:
        """Append sampled samples to training batches.

        Args:
            batches: Batches (inputs, targets, weights) of `FeatureStore.training_batches`, with `SAMPLE_INDEX` among
                the targets.
            first_epoch: int >= 0. Epoch of the first batch.
            steps_per_epoch: int >= 1. Number of batches per epoch.

        Returns:
            The batches with the sampled samples behind the training samples, and with the group and domain IDs of all
            samples among the targets, by output name of each objective.
        """
        arrays = self.stores[0].inputs[0]
        types = [*(tf.as_dtype(array.dtype) for array in arrays.values()), tf.bool, *[tf.float32] * len(self.ids)]

        def sample(step: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
            sampled, is_positive = self.sample_positives(np.tile(indices, self.num_positives), int(step))
            all_indices = np.concatenate([indices, sampled])
            inputs = self.gather_inputs(sampled, int(step) // steps_per_epoch)
            return [*inputs.values(), is_positive, *(ids[all_indices].astype(np.float32) for ids in self.ids.values())]

        def append(step: tf.Tensor, batch: tuple[dict, dict, dict]) -> tuple[dict, dict, dict]:
            inputs, targets, weights = ({k: v for k, v in part.items() if k != SAMPLE_INDEX} for part in batch)
            tensors = tf.numpy_function(sample, [step, batch[1][SAMPLE_INDEX]], types, stateful=False)
            sampled_inputs = dict(zip(arrays, tensors, strict=False))
            is_positive, all_ids = tensors[len(arrays)], tensors[len(arrays) + 1 :]
            for name, array in arrays.items():
                sampled_inputs[name].set_shape([None, *array.shape[1:]])
            is_positive.set_shape([None])
            # All positives of a sample together weigh as much as the sample; otherwise other domains would dominate.
            factor = tf.cast(is_positive, tf.float32) * (self.propagate_labels / self.num_positives)
            inputs = {name: tf.concat([value, sampled_inputs[name]], 0) for name, value in inputs.items()}
            targets = {name: tf.concat([value] * (1 + self.num_positives), 0) for name, value in targets.items()}
            weights = {
                name: tf.concat([value, tf.tile(value, [self.num_positives]) * factor], 0)
                for name, value in weights.items()
            }
            for name, ids in zip(self.ids, all_ids, strict=True):
                ids.set_shape([None, 2])
                targets[name], weights[name] = ids, tf.ones_like(ids[:, 0])
            return inputs, targets, weights

        return parallel_map(batches.enumerate(first_epoch * steps_per_epoch), append)

    def gather_inputs(self, indices: np.ndarray, epoch: int) -> Batch:
        """Return the inputs (k, ...) of samples in an epoch, by input name.

        Args:
            indices: int array (k,). Indices over the samples of all splits of `PAIR_SPLITS`.
            epoch: int >= 0. Epoch, which selects the augmented view.
        """
        inputs: Batch = {}
        for name, array in self.stores[0].inputs[0].items():
            inputs[name] = np.empty((len(indices), *array.shape[1:]), array.dtype)
        offset = 0
        for store in self.stores:
            view = store.inputs[epoch % len(store.inputs)]
            in_store = (indices >= offset) & (indices < offset + len(store))
            for name, array in view.items():
                inputs[name][in_store] = array[indices[in_store] - offset]
            offset += len(store)
        return inputs


def _encode_values(column: np.ndarray) -> np.ndarray:
    """Return the IDs (n,) of the values of a column; `UNKNOWN_ID` for empty values."""
    ids = {value: number for number, value in enumerate(sorted(set(column) - {""}))}
    return np.array([ids.get(value, UNKNOWN_ID) for value in column], int)


def _find_runs(sorted_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and the length of the run of equal rows that each row belongs to.

    Args:
        sorted_rows: Sorted array (n, columns).

    Returns:
        Two int arrays (n,).
    """
    is_new = np.r_[True, (sorted_rows[1:] != sorted_rows[:-1]).any(axis=1)]
    run, starts = np.cumsum(is_new) - 1, np.flatnonzero(is_new)
    return starts[run], np.diff(np.r_[starts, len(sorted_rows)])[run]
