"""Learning rate range test (Smith, Cyclical Learning Rates, arXiv 1506.01186, section 3.3)."""

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfx_finetune.core import files, progress
from tfx_finetune.core.config import Phase
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.network import Network
from tfx_finetune.ops.depthwise import use_fast_depthwise_gradients
from tfx_finetune.report.plots import plot_learning_rates
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.contrastive import add_contrastive_targets
from tfx_finetune.training.optimizer import RANGE_TEST, Schedule
from tfx_finetune.training.phase_data import precompute_features, prepare_phase_data
from tfx_finetune.training.trainer import (
    attach_adapter,
    build_losses_and_metrics,
    build_phase_model,
    compile_for_phase,
    fit_phase,
)

NUM_STEPS = 120
_SMOOTHING = 0.9
_DIVERGENCE_FACTOR = 3.0


def find_learning_rates(data: Data, network: Network, context: TrainingContext) -> dict[str, float]:
    """Run the range test for every phase and plot the losses to `<workdir>/find_lr.svg`.

    The learning rate grows from 1e-6 to 1 in about 100 steps. Each phase starts from the weights of the phases before
    it, which are trained for that purpose.

    Args:
        data: Samples of all splits.
        network: The whole model; its weights are changed in place.
        context: Settings of the run.

    Returns:
        The learning rate at which the smoothed loss falls fastest, by phase.
    """
    curves: dict[str, tuple[list[float], list[float]]] = {}
    suggested = {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch_context = dataclasses.replace(context, workdir=Path(scratch))
        precompute_features(network, data, scratch_context)
        for name, phase in context.phases.items():
            rates, losses = _run_range_test(network, phase, data, scratch_context)
            curves[name] = rates.tolist(), losses.tolist()
            suggested[name] = find_steepest(rates, losses)
            current = f"--{name}.learning_rate={phase.learning_rate:.1e}"
            progress.log(f"{name}: the loss fell fastest at {suggested[name]:.1e} (the run has {current})")
            if name != list(context.phases)[-1]:
                fit_phase(network, name, phase, data, scratch_context)
    with files.write_atomically(context.workdir / "find_lr.svg") as draft:
        draft.write_text(plot_learning_rates({name: (*curve, suggested[name]) for name, curve in curves.items()}))
    return suggested


def find_steepest(learning_rates: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray) -> float:
    """Return the learning rate at which the loss falls fastest per logarithm of the learning rate.

    Args:
        learning_rates: Increasing learning rates, (n,).
        losses: Smoothed losses, (n,).

    Examples:
        >>> find_steepest([1e-4, 1e-3, 1e-2], [3.0, 2.0, 0.0])
        0.01
    """
    slope = np.gradient(np.asarray(losses), np.log(np.asarray(learning_rates)))
    return float(learning_rates[int(slope.argmin())])


def _run_range_test(
    network: Network, phase: Phase, data: Data, context: TrainingContext
) -> tuple[np.ndarray, np.ndarray]:
    """Return learning rates and smoothed losses up to the divergence of the loss; the network keeps its weights."""
    trunks, top, phase_losses = build_phase_model(network, phase, data, context, NUM_STEPS)
    start = top.get_weights()
    losses: list[float] = []

    class StopOnDivergence(keras.callbacks.Callback):
        """Callback that stops training when the loss diverges."""

        def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
            """Reset the loss, so that Keras reports the loss of one batch and not the running mean."""
            self.model.reset_metrics()

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            """Record the loss of a batch."""
            loss = float((logs or {})["loss"])
            losses.append(loss)
            if not math.isfinite(loss) or loss > _DIVERGENCE_FACTOR * min(losses):
                self.model.stop_training = True

    test_phase = dataclasses.replace(phase, epochs=1, schedule=RANGE_TEST, learning_rate=1.0)
    phase_data = prepare_phase_data(trunks, phase, data, context)
    with attach_adapter(network, phase), use_fast_depthwise_gradients(top):
        compile_for_phase(top, network, test_phase, NUM_STEPS, phase_losses)
        batches = add_contrastive_targets(phase_data.training_batches(0, NUM_STEPS), network).take(NUM_STEPS)
        build_losses_and_metrics(top, batches)
        top.fit(batches, epochs=1, steps_per_epoch=NUM_STEPS, callbacks=[StopOnDivergence()], verbose=0)
    top.set_weights(start)
    finite = np.array([loss for loss in losses if math.isfinite(loss)])
    rates = np.asarray(Schedule(test_phase, NUM_STEPS)(np.arange(len(finite))))
    return rates, smooth(finite)


def smooth(losses: np.ndarray) -> np.ndarray:
    """Return the exponential moving average with bias correction (arXiv 1412.6980, section 3), (n,).

    Examples:
        >>> smooth(np.array([1.0, 1.0])).tolist()
        [1.0, 1.0]
    """
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smoothed.append(mean / (1 - _SMOOTHING**step))
    return np.array(smoothed)
