"""STATION: what a model of several towers still knows where some of them have nothing to see."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfx_finetune.contracts import PRESENCE, Batch
from tfx_finetune.engine import engine
from tfx_finetune.evaluate import evaluate
from tfx_finetune.features import Store
from tfx_finetune.model import Network, cut

_BATCH = 64
# Of more towers, not every subset is tried.
_ALL = 4


@dataclass(frozen=True)
class Subset:
    """Scores of a model that is shown some of its inputs alone.

    Attributes:
        towers: Those that it is shown.
        samples: Test samples that have something for one of them.
        scores: Every score of every head on these.
    """

    towers: tuple[str, ...]
    samples: int
    scores: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """As it stands in scores.json, without what is told of single classes."""
        single = {name: value for name, value in self.scores.items() if isinstance(value, float)}
        return {"towers": list(self.towers), "samples": self.samples, **single}


def subsets(network: Network, test: Store) -> list[Subset]:
    """Scores of a trained model for every subset of its towers, the smallest first; nothing where there is one tower.

    Of more than four towers: each alone, all but one, and all.

    Args:
        network: The trained model.
        test: Prepared test samples.
    """
    towers = list(network.backbones)
    if len(towers) == 1:
        return []
    inputs, run = _apart(network, test)
    found = []
    for chosen in _subsets(towers):
        presence = inputs[PRESENCE] * np.array([tower in chosen for tower in towers], np.float32)
        rows = np.flatnonzero(presence.any(1))
        if not len(rows):
            continue
        shown = inputs | {PRESENCE: presence}
        parts = [run({name: values[part] for name, values in shown.items()}) for part in _parts(rows)]
        targets = {head: np.asarray(target[rows]) for head, target in test.targets.items()}
        outputs = {}
        for head, task in network.tasks.items():
            logits = np.concatenate([part[f"{head}/logits"] for part in parts])
            outputs[f"{head}/scores"] = np.asarray(task.decode({"logits": logits})["scores"])
        found.append(Subset(chosen, len(rows), evaluate(network.tasks, targets, outputs)))
    return found


def shares(network: Network, test: Store) -> np.ndarray | None:
    """How much each tower counts for each test sample, (n, towers); None where the fusion does not tell."""
    if network.shares is None:
        return None
    parts = [
        network.shares({name: np.asarray(values[part]) for name, values in test.inputs[0].items()}, training=False)
        for part in _parts(np.arange(len(test)))
    ]
    return np.concatenate([np.asarray(part) for part in parts])


def _apart(network: Network, test: Store) -> tuple[Batch, Any]:
    """What the towers make of the samples, each run once, and the model's rest as a function of it."""
    trunks, top = cut(network, "0")
    inputs = {name: np.asarray(values) for name, values in test.inputs[0].items()}
    for tower, trunk in trunks.items():
        apply = engine(trunk, len(test))
        inputs[tower] = np.concatenate([apply(inputs[tower][part]) for part in _parts(np.arange(len(test)))])
    return inputs, lambda batch: {name: np.asarray(value) for name, value in top(batch, training=False).items()}


def _subsets(towers: Sequence[str]) -> Iterator[tuple[str, ...]]:
    sizes = range(1, len(towers) + 1) if len(towers) <= _ALL else (1, len(towers) - 1, len(towers))
    for size in sizes:
        yield from itertools.combinations(towers, size)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
