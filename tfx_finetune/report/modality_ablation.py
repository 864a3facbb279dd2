"""What a model of several towers still knows where some of them have nothing to see."""

import itertools
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from tfx_finetune.evaluation.records import ModalityAblation
from tfx_finetune.evaluation.scores import decode_outputs, evaluate
from tfx_finetune.models.build import find_cut_tensors_by_tower, split_model
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import build_trainable_part as cut_at
from tfx_finetune.ops import arrays
from tfx_finetune.training.engine import make_inference_fn
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK

_BATCH_SIZE = 64
# Of more towers, not every subset is tried.
_MAX_TOWERS = 4


def run_modality_ablation(
    network: Network, test: FeatureStore, inputs: Batch | None = None, run_whole_model: bool = False
) -> tuple[list[ModalityAblation], np.ndarray | None]:
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
    top = network.model if run_whole_model else split_model(network, "0")[1]
    inputs = inputs or (_get_inputs(test) if run_whole_model else run_towers(network, test))
    found = []
    for chosen in _iter_subsets(towers):
        presence = inputs[MODALITY_MASK] * np.array([tower in chosen for tower in towers], np.float32)
        rows = np.flatnonzero(presence.any(1))
        if not len(rows):
            continue
        logits = _predict_rows(top, inputs | {MODALITY_MASK: presence}, rows)
        targets = {head: np.asarray(target[rows]) for head, target in test.targets.items()}
        outputs = {name: np.asarray(value) for name, value in decode_outputs(network.tasks, logits).items()}
        found.append(ModalityAblation(chosen, len(rows), evaluate(network.tasks, targets, outputs)))
    if network.gate_weights is None:
        return found, None
    weigh = cut_at(
        network.model.input, find_cut_tensors_by_tower(network, "0"), {"shares": network.gate_weights.output}
    )
    shares = _predict_rows(weigh, inputs, np.arange(len(test)))["shares"]
    # Those of a plain mean say nothing of a sample.
    there = inputs[MODALITY_MASK] / inputs[MODALITY_MASK].sum(1, keepdims=True)
    return found, None if np.allclose(shares, there, atol=1e-3) else shares


def run_towers(network: Network, test: FeatureStore) -> Batch:
    """What the towers make of the samples, each run once."""
    trunks, _ = split_model(network, "0")
    inputs = _get_inputs(test)
    for tower, trunk in trunks.items():
        apply = make_inference_fn(trunk, len(test))
        inputs[tower] = np.concatenate(
            [apply(inputs[tower][part]) for part in _split_into_batches(np.arange(len(test)))]
        )
    return inputs


def _get_inputs(test: FeatureStore) -> Batch:
    return {name: np.asarray(values) for name, values in test.inputs[0].items()}


def _predict_rows(model: keras.Model, inputs: Batch, rows: np.ndarray) -> Batch:
    """A model's outputs for some samples."""
    return arrays.concatenate([model(arrays.take(inputs, part), training=False) for part in _split_into_batches(rows)])


def _iter_subsets(towers: Sequence[str]) -> Iterator[tuple[str, ...]]:
    sizes = range(1, len(towers) + 1) if len(towers) <= _MAX_TOWERS else (1, len(towers) - 1, len(towers))
    for size in sizes:
        yield from itertools.combinations(towers, size)


def _split_into_batches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _BATCH_SIZE] for start in range(0, len(rows), _BATCH_SIZE)]
