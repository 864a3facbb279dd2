"""What a model of several towers still knows where some of them have nothing to see."""

import itertools
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from tfx_finetune.evaluation.records import Subset
from tfx_finetune.evaluation.scores import decoded, evaluate
from tfx_finetune.models.build import cut, joints_of
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import top as cut_at
from tfx_finetune.ops import arrays
from tfx_finetune.training.engine import engine
from tfx_finetune.training.feature_cache import Store
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import PRESENCE

_BATCH = 64
# Of more towers, not every subset is tried.
_ALL = 4


def subsets(
    network: Network, test: Store, inputs: Batch | None = None, whole: bool = False
) -> tuple[list[Subset], np.ndarray | None]:
    """Scores of a trained model for every subset of its towers, the smallest first; nothing where there is one tower.

    Of more than four towers: each alone, all but one, and all.

    Args:
        network: The trained model.
        test: Prepared test samples.
        inputs: What the towers make of them, where that is known; see `above`.
        whole: Whether the model is run as a whole, as one that was compressed cannot be cut where its towers end.

    Returns:
        The scores, and how much each tower counts for each sample, (n, towers), where samples decide that.
    """
    towers = list(network.backbones)
    if len(towers) == 1:
        return [], None
    top = network.model if whole else cut(network, "0")[1]
    inputs = inputs or (_prepared(test) if whole else above(network, test))
    found = []
    for chosen in _subsets(towers):
        presence = inputs[PRESENCE] * np.array([tower in chosen for tower in towers], np.float32)
        rows = np.flatnonzero(presence.any(1))
        if not len(rows):
            continue
        logits = _answers(top, inputs | {PRESENCE: presence}, rows)
        targets = {head: np.asarray(target[rows]) for head, target in test.targets.items()}
        outputs = {name: np.asarray(value) for name, value in decoded(network.tasks, logits).items()}
        found.append(Subset(chosen, len(rows), evaluate(network.tasks, targets, outputs)))
    if network.shares is None:
        return found, None
    weigh = cut_at(network.model.input, joints_of(network, "0"), {"shares": network.shares.output})
    shares = _answers(weigh, inputs, np.arange(len(test)))["shares"]
    # Those of a plain mean say nothing of a sample.
    there = inputs[PRESENCE] / inputs[PRESENCE].sum(1, keepdims=True)
    return found, None if np.allclose(shares, there, atol=1e-3) else shares


def above(network: Network, test: Store) -> Batch:
    """What the towers make of the samples, each run once."""
    trunks, _ = cut(network, "0")
    inputs = _prepared(test)
    for tower, trunk in trunks.items():
        apply = engine(trunk, len(test))
        inputs[tower] = np.concatenate([apply(inputs[tower][part]) for part in _parts(np.arange(len(test)))])
    return inputs


def _prepared(test: Store) -> Batch:
    return {name: np.asarray(values) for name, values in test.inputs[0].items()}


def _answers(model: keras.Model, inputs: Batch, rows: np.ndarray) -> Batch:
    """A model's outputs for some samples."""
    return arrays.joined([model(arrays.rows(inputs, part), training=False) for part in _parts(rows)])


def _subsets(towers: Sequence[str]) -> Iterator[tuple[str, ...]]:
    sizes = range(1, len(towers) + 1) if len(towers) <= _ALL else (1, len(towers) - 1, len(towers))
    for size in sizes:
        yield from itertools.combinations(towers, size)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
