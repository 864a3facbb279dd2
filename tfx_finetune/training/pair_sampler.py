"""Who stands beside a training sample in a batch, for objectives that need company."""

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

SAMPLE_INDEX = "row"
"""The target that says which training sample stands in a row, until company joins it."""
PAIR_SPLITS = ("train", UNLABELED)
"""Where company is taken from."""


def objective_output_name(objective: str) -> str:
    """The output, and the target, of an objective."""
    return f"objectives/{objective}"


def compute_group_and_domain_ids(table: Table, column: str) -> np.ndarray:
    """Numbers of the group and of the value of a column, of training samples and behind them those of `BESIDE`.

    Returns:
        (n, 2), int; `UNKNOWN` where there is none.
    """
    rows = np.concatenate([np.flatnonzero(table.split == split) for split in PAIR_SPLITS])
    return np.stack([_encode_values(table.columns[name][rows]) for name in ("group", column)], axis=1)


def count_domains(table: Table, objective: Objective) -> int:
    """How many values an objective's column has among the samples that may stand in a batch.

    Raises:
        UserError: There is nothing to bring together.
    """
    found = compute_group_and_domain_ids(table, objective.column)
    count = int(found[:, 1].max()) + 1
    if count < 2:
        todo = "give it data of several, or leave the objective out"
        raise UserError(f"an objective wants several values of {objective.column}", got=count, hint=todo)
    if objective.needs_positives and not index_positives(found).num_positives.any():
        what = f"no training sample has another of its group with another {objective.column}"
        raise UserError(what, hint="give the data a column group, the same for all names of one thing")
    return count


@dataclass(frozen=True, eq=False)
class PositiveIndex:
    """Where those of a sample's group with other values stand, once all samples are sorted by group and value.

    Attributes:
        order: The samples, sorted, (n,).
        count: How many there are of each sample, (n,).
        begin: Where its group begins in the order, (n,).
        own: Where in the order those of its group and value begin, (n,), which are skipped.
        size: How many these are, (n,).
    """

    sorted_indices: np.ndarray
    num_positives: np.ndarray
    group_start: np.ndarray
    same_domain_start: np.ndarray
    same_domain_size: np.ndarray

    def sample(self, indices: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """One of those of each row, where it has some, by a number from 0 to 1, (rows,)."""
        place = self.group_start[indices] + (uniform * self.num_positives[indices]).astype(int)
        place = np.where(place >= self.same_domain_start[indices], place + self.same_domain_size[indices], place)
        return self.sorted_indices[np.where(self.num_positives[indices] > 0, place, 0)]


def index_positives(ids: np.ndarray) -> PositiveIndex:
    """Those of each sample, by marks (n, 2)."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    group, both = _find_runs(ids[order, :1]), _find_runs(ids[order])
    begin, many, own, size = (np.empty(len(ids), int) for _ in range(4))
    begin[order], many[order] = group
    own[order], size[order] = both
    known = (ids != UNKNOWN_ID).all(axis=1)
    return PositiveIndex(order, np.where(known, many - size, 0), begin, own, size)


class PairSampler:
    """Adds to training batches: beside each sample stand some of its group with other values of a column, or any.

    They have no label, or where an objective wants it that of the sample of their group beside which they stand.

    Args:
        stores: What the trained part sees of the samples of each of `SPLITS`; the second is None where it has none.
        table: The samples.
        objectives: By name.
        seed: Of the run.
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
        paired = [objective_output_name(name) for name, objective in objectives.items() if objective.needs_positives]
        self.positive_index = index_positives(self.ids[paired[0]]) if paired else None
        self.num_samples = len(next(iter(self.ids.values())))

    def sample_positives(self, indices: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Who stands beside these training samples in the batch of this number, (batch,), and whether as its like."""
        rng = np.random.default_rng((self.seed, step))
        share = rng.random(len(indices))
        # Without a like: one of those without labels where there are some, else any.
        first = self.num_labeled if self.num_samples > self.num_labeled else 0
        found = first + (rng.random(len(indices)) * (self.num_samples - first)).astype(int)
        if not self.positive_index:
            return found, np.zeros(len(indices), bool)
        alike = self.positive_index.num_positives[indices] > 0
        return np.where(alike, self.positive_index.sample(indices, share), found), alike

    def append_positives(self, batches: tf.data.Dataset, first_epoch: int, steps_per_epoch: int) -> tf.data.Dataset:
        """Training batches with `ROW` among their targets, with company.

        Args:
            batches: (inputs, targets, weights), as of `Store.epochs`.
            first: The epoch of the first one.
            steps: Batches an epoch.

        Returns:
            The same, those beside all samples of a batch behind it, and the marks of each objective among the targets,
            by its output.
        """
        known = self.stores[0].inputs[0]
        types = [*(tf.as_dtype(column.dtype) for column in known.values()), tf.bool, *[tf.float32] * len(self.ids)]

        def look(number: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
            found, alike = self.sample_positives(np.tile(rows, self.num_positives), int(number))
            both = np.concatenate([rows, found])
            seen = self.gather_inputs(found, int(number) // steps_per_epoch)
            return [*seen.values(), alike, *(each[both].astype(np.float32) for each in self.ids.values())]

        def join(number: tf.Tensor, batch: tuple[dict, dict, dict]) -> tuple[dict, dict, dict]:
            inputs, targets, weights = ({k: v for k, v in part.items() if k != SAMPLE_INDEX} for part in batch)
            found = tf.numpy_function(look, [number, batch[1][SAMPLE_INDEX]], types, stateful=False)
            more, alike, of_each = dict(zip(known, found, strict=False)), found[len(known)], found[len(known) + 1 :]
            for name, column in known.items():
                more[name].set_shape([None, *column.shape[1:]])
            alike.set_shape([None])
            # All who stand beside a sample weigh as much as the sample, lest its own language be one of many.
            inherited = tf.cast(alike, tf.float32) * (self.propagate_labels / self.num_positives)
            inputs = {name: tf.concat([value, more[name]], 0) for name, value in inputs.items()}
            targets = {name: tf.concat([value] * (1 + self.num_positives), 0) for name, value in targets.items()}
            weights = {
                name: tf.concat([value, tf.tile(value, [self.num_positives]) * inherited], 0)
                for name, value in weights.items()
            }
            for name, mark in zip(self.ids, of_each, strict=True):
                mark.set_shape([None, 2])
                targets[name], weights[name] = mark, tf.ones_like(mark[:, 0])
            return inputs, targets, weights

        return parallel_map(batches.enumerate(first_epoch * steps_per_epoch), join)

    def gather_inputs(self, indices: np.ndarray, epoch: int) -> Batch:
        """What the trained part sees of samples in an epoch, (n, ...)."""
        found: Batch = {}
        for name, values in self.stores[0].inputs[0].items():
            found[name] = np.empty((len(indices), *values.shape[1:]), values.dtype)
        begin = 0
        for store in self.stores:
            view = store.inputs[epoch % len(store.inputs)]
            here = (indices >= begin) & (indices < begin + len(store))
            for name, column in view.items():
                found[name][here] = column[indices[here] - begin]
            begin += len(store)
        return found


def _encode_values(column: np.ndarray) -> np.ndarray:
    """Numbers of the values of a column, `UNKNOWN` for an empty one, (n,)."""
    known = {value: number for number, value in enumerate(sorted(set(column) - {""}))}
    return np.array([known.get(value, UNKNOWN_ID) for value in column], int)


def _find_runs(sorted_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of sorted rows (n, columns), where the run of rows like it begins and how long it is, each (n,)."""
    new = np.r_[True, (sorted_rows[1:] != sorted_rows[:-1]).any(axis=1)]
    run, begins = np.cumsum(new) - 1, np.flatnonzero(new)
    return begins[run], np.diff(np.r_[begins, len(sorted_rows)])[run]
