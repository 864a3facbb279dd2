"""Who stands beside a training sample in a batch, for objectives that need company."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.tf_data import mapped
from tfx_finetune.training.feature_cache import Store
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.table import BESIDE, Table
from tfx_finetune.types.training import UNKNOWN, Objective

ROW = "row"
"""The target that says which training sample stands in a row, until company joins it."""
SPLITS = ("train", BESIDE)
"""Where company is taken from."""


def named(objective: str) -> str:
    """The output, and the target, of an objective."""
    return f"objectives/{objective}"


def marks(table: Table, column: str) -> np.ndarray:
    """Numbers of the group and of the value of a column, of training samples and behind them those of `BESIDE`.

    Returns:
        (n, 2), int; `UNKNOWN` where there is none.
    """
    rows = np.concatenate([np.flatnonzero(table.split == split) for split in SPLITS])
    return np.stack([_numbers(table.columns[name][rows]) for name in ("group", column)], axis=1)


def values(table: Table, objective: Objective) -> int:
    """How many values an objective's column has among the samples that may stand in a batch.

    Raises:
        UserError: There is nothing to bring together.
    """
    found = marks(table, objective.column)
    count = int(found[:, 1].max()) + 1
    if count < 2:
        todo = "give it data of several, or leave the objective out"
        raise UserError(f"an objective wants several values of {objective.column}", received=count, todo=todo)
    if objective.pairs and not likes(found).count.any():
        what = f"no training sample has another of its group with another {objective.column}"
        raise UserError(what, todo="give the data a column group, the same for all names of one thing")
    return count


@dataclass(frozen=True, eq=False)
class Likes:
    """Where those of a sample's group with other values stand, once all samples are sorted by group and value.

    Attributes:
        order: The samples, sorted, (n,).
        count: How many there are of each sample, (n,).
        begin: Where its group begins in the order, (n,).
        own: Where in the order those of its group and value begin, (n,), which are skipped.
        size: How many these are, (n,).
    """

    order: np.ndarray
    count: np.ndarray
    begin: np.ndarray
    own: np.ndarray
    size: np.ndarray

    def drawn(self, rows: np.ndarray, share: np.ndarray) -> np.ndarray:
        """One of those of each row, where it has some, by a number from 0 to 1, (rows,)."""
        place = self.begin[rows] + (share * self.count[rows]).astype(int)
        place = np.where(place >= self.own[rows], place + self.size[rows], place)
        return self.order[np.where(self.count[rows] > 0, place, 0)]


def likes(found: np.ndarray) -> Likes:
    """Those of each sample, by marks (n, 2)."""
    order = np.lexsort((found[:, 1], found[:, 0]))
    group, both = _runs(found[order, :1]), _runs(found[order])
    begin, many, own, size = (np.empty(len(found), int) for _ in range(4))
    begin[order], many[order] = group
    own[order], size[order] = both
    known = (found != UNKNOWN).all(axis=1)
    return Likes(order, np.where(known, many - size, 0), begin, own, size)


class Company:
    """Adds to training batches: beside each sample stand some of its group with other values of a column, or any.

    They have no label, or where an objective wants it that of the sample of their group beside which they stand.

    Args:
        stores: What the trained part sees of the samples of each of `SPLITS`; the second is None where it has none.
        table: The samples.
        objectives: By name.
        seed: Of the run.
    """

    def __init__(
        self, stores: Sequence[Store | None], table: Table, objectives: Mapping[str, Objective], seed: int
    ) -> None:
        self.stores, self.seed = [store for store in stores if store], seed
        self.marks = {named(name): marks(table, objective.column) for name, objective in objectives.items()}
        self.inherit = any(objective.inherit for objective in objectives.values())
        self.each = max(objective.company for objective in objectives.values())
        self.labelled = table.size("train")
        paired = [named(name) for name, objective in objectives.items() if objective.pairs]
        self.likes = likes(self.marks[paired[0]]) if paired else None
        self.count = len(next(iter(self.marks.values())))

    def beside(self, rows: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Who stands beside these training samples in the batch of this number, (batch,), and whether as its like."""
        rng = np.random.default_rng((self.seed, number))
        share = rng.random(len(rows))
        # Without a like: one of those without labels where there are some, else any.
        first = self.labelled if self.count > self.labelled else 0
        found = first + (rng.random(len(rows)) * (self.count - first)).astype(int)
        if not self.likes:
            return found, np.zeros(len(rows), bool)
        alike = self.likes.count[rows] > 0
        return np.where(alike, self.likes.drawn(rows, share), found), alike

    def joined(self, batches: tf.data.Dataset, first: int, steps: int) -> tf.data.Dataset:
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
        types = [*(tf.as_dtype(column.dtype) for column in known.values()), tf.bool, *[tf.float32] * len(self.marks)]

        def look(number: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
            found, alike = self.beside(np.tile(rows, self.each), int(number))
            both = np.concatenate([rows, found])
            seen = self.taken(found, int(number) // steps)
            return [*seen.values(), alike, *(each[both].astype(np.float32) for each in self.marks.values())]

        def join(number: tf.Tensor, batch: tuple[dict, dict, dict]) -> tuple[dict, dict, dict]:
            inputs, targets, weights = ({k: v for k, v in part.items() if k != ROW} for part in batch)
            found = tf.numpy_function(look, [number, batch[1][ROW]], types, stateful=False)
            more, alike, of_each = dict(zip(known, found, strict=False)), found[len(known)], found[len(known) + 1 :]
            for name, column in known.items():
                more[name].set_shape([None, *column.shape[1:]])
            alike.set_shape([None])
            # All who stand beside a sample weigh as much as the sample, lest its own language be one of many.
            inherited = tf.cast(alike, tf.float32) * (self.inherit / self.each)
            inputs = {name: tf.concat([value, more[name]], 0) for name, value in inputs.items()}
            targets = {name: tf.concat([value] * (1 + self.each), 0) for name, value in targets.items()}
            weights = {
                name: tf.concat([value, tf.tile(value, [self.each]) * inherited], 0) for name, value in weights.items()
            }
            for name, mark in zip(self.marks, of_each, strict=True):
                mark.set_shape([None, 2])
                targets[name], weights[name] = mark, tf.ones_like(mark[:, 0])
            return inputs, targets, weights

        return mapped(batches.enumerate(first * steps), join)

    def taken(self, rows: np.ndarray, epoch: int) -> Batch:
        """What the trained part sees of samples in an epoch, (n, ...)."""
        found: Batch = {}
        for name, values in self.stores[0].inputs[0].items():
            found[name] = np.empty((len(rows), *values.shape[1:]), values.dtype)
        begin = 0
        for store in self.stores:
            view = store.inputs[epoch % len(store.inputs)]
            here = (rows >= begin) & (rows < begin + len(store))
            for name, column in view.items():
                found[name][here] = column[rows[here] - begin]
            begin += len(store)
        return found


def _numbers(column: np.ndarray) -> np.ndarray:
    """Numbers of the values of a column, `UNKNOWN` for an empty one, (n,)."""
    known = {value: number for number, value in enumerate(sorted(set(column) - {""}))}
    return np.array([known.get(value, UNKNOWN) for value in column], int)


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of sorted rows (n, columns), where the run of rows like it begins and how long it is, each (n,)."""
    new = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    run, begins = np.cumsum(new) - 1, np.flatnonzero(new)
    return begins[run], np.diff(np.r_[begins, len(ordered)])[run]
