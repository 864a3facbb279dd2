"""Modality ablation: scores of a multimodal model for every subset of its inputs."""

import itertools
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from tfx_finetune.evaluation.records import ModalityAblation
from tfx_finetune.evaluation.scores import decode_outputs, evaluate
from tfx_finetune.models.cut import build_trainable_part
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import find_cut_tensors_by_tower, split_model
from tfx_finetune.ops import arrays
from tfx_finetune.training.engine import make_inference_fn
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK

_BATCH_SIZE = 64
# With more towers, only single towers, all but one, and all towers are evaluated.
_MAX_TOWERS = 4


def run_modality_ablation(
    network: Network, test: FeatureStore, tower_features: Batch | None = None, run_full_model: bool = False
) -> tuple[list[ModalityAblation], np.ndarray | None]:
    """Evaluate a trained model on every subset of its inputs, smallest subsets first.

    With more than four towers, the subsets are: each tower alone, all towers but one, and all towers.

    Args:
        network: Trained model.
        test: Prepared test samples.
        tower_features: Result of `run_towers` for `test`. Default None: compute it.
        run_full_model: bool. True runs the full model for every subset, which compressed models need because they
            cannot be split. False (default) runs the towers once and only the remaining layers for every subset.

    Returns:
        The scores of each subset (empty for a model with one tower), and the gate weights, float (n, towers), or None
        if the fusion has no gates or its gates do not depend on the sample.
    """
    towers = list(network.backbones)
    if len(towers) == 1:
        return [], None
    model = network.model if run_full_model else split_model(network, "0")[1]
    inputs = tower_features or (_get_inputs(test) if run_full_model else run_towers(network, test))
    ablations = []
    for subset in _iter_subsets(towers):
        modality_mask = inputs[MODALITY_MASK] * np.array([tower in subset for tower in towers], np.float32)
        rows = np.flatnonzero(modality_mask.any(1))
        if not len(rows):
            continue
        logits = _predict_rows(model, inputs | {MODALITY_MASK: modality_mask}, rows)
        targets = {head: np.asarray(target[rows]) for head, target in test.targets.items()}
        outputs = {name: np.asarray(value) for name, value in decode_outputs(network.tasks, logits).items()}
        ablations.append(ModalityAblation(subset, len(rows), evaluate(network.tasks, targets, outputs)))
    if network.gate_weights is None:
        return ablations, None
    gates = build_trainable_part(
        network.model.input,
        find_cut_tensors_by_tower(network, "0"),
        {"gate_weights": network.gate_weights.output},
    )
    gate_weights = _predict_rows(gates, inputs, np.arange(len(test)))["gate_weights"]
    # Gates that average the inputs of every sample carry no information about it.
    uniform_weights = inputs[MODALITY_MASK] / inputs[MODALITY_MASK].sum(1, keepdims=True)
    return ablations, None if np.allclose(gate_weights, uniform_weights, atol=1e-3) else gate_weights


def run_towers(network: Network, test: FeatureStore) -> Batch:
    """Run every tower once and return the features by tower, together with the modality mask.

    Args:
        network: Trained model.
        test: Prepared samples.
    """
    trunks, _ = split_model(network, "0")
    features = _get_inputs(test)
    for tower, trunk in trunks.items():
        apply = make_inference_fn(trunk, len(test))
        batches = _split_into_batches(np.arange(len(test)))
        features[tower] = np.concatenate([apply(features[tower][rows]) for rows in batches])
    return features


def _get_inputs(test: FeatureStore) -> Batch:
    """Return the prepared inputs of all samples as arrays."""
    return {name: np.asarray(values) for name, values in test.inputs[0].items()}


def _predict_rows(model: keras.Model, inputs: Batch, rows: np.ndarray) -> Batch:
    """Return the outputs of a model for the samples in `rows`."""
    batches = [model(arrays.take(inputs, batch), training=False) for batch in _split_into_batches(rows)]
    return arrays.concatenate(batches)


def _iter_subsets(towers: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the subsets of the towers to evaluate, smallest first."""
    sizes = range(1, len(towers) + 1) if len(towers) <= _MAX_TOWERS else (1, len(towers) - 1, len(towers))
    for size in sizes:
        yield from itertools.combinations(towers, size)


def _split_into_batches(rows: np.ndarray) -> list[np.ndarray]:
    """Split row numbers into batches of `_BATCH_SIZE`."""
    return [rows[start : start + _BATCH_SIZE] for start in range(0, len(rows), _BATCH_SIZE)]
