"""A learning rate range test (Smith, Cyclical Learning Rates, arXiv 1506.01186, section 3.3)."""

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
    """Runs the range test of every phase and draws them into `<workdir>/find_lr.svg`.

    The rate grows from 1e-6 to 1 within some 100 steps, and the loss is watched. A phase is tested on what the phases
    before it give, which are trained for that.

    Args:
        data: Samples of all splits.
        network: The whole model; its weights are changed in place.
        context: Settings of the run.

    Returns:
        For each phase the rate at which the smoothed loss fell fastest.
    """
    curves: dict[str, tuple[list[float], list[float]]] = {}
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        apart = dataclasses.replace(context, workdir=Path(scratch))
        precompute_features(network, data, apart)
        for name, phase in context.phases.items():
            rates, losses = _run_range_test(network, phase, data, apart)
            curves[name] = rates.tolist(), losses.tolist()
            found[name] = find_steepest(rates, losses)
            given = f"--{name}.learning_rate={phase.learning_rate:.1e}"
            progress.log(f"{name}: the loss fell fastest at {found[name]:.1e} (the run has {given})")
            if name != list(context.phases)[-1]:
                fit_phase(network, name, phase, data, apart)
    with files.write_atomically(context.workdir / "find_lr.svg") as draft:
        draft.write_text(plot_learning_rates({name: (*curve, found[name]) for name, curve in curves.items()}))
    return found


def find_steepest(learning_rates: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray) -> float:
    """The rate at which the loss falls fastest by its logarithm.

    Args:
        rates: Increasing.
        losses: Smoothed loss at each.
    """
    slope = np.gradient(np.asarray(losses), np.log(np.asarray(learning_rates)))
    return float(learning_rates[int(slope.argmin())])


def _run_range_test(
    network: Network, phase: Phase, data: Data, context: TrainingContext
) -> tuple[np.ndarray, np.ndarray]:
    """Rates and smoothed losses, up to where the loss exploded; the network is left as it was."""
    trunks, top, phase_losses = build_phase_model(network, phase, data, context, NUM_STEPS)
    start = top.get_weights()
    losses: list[float] = []

    class Watch(keras.callbacks.Callback):
        """Stops where the loss explodes."""

        def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
            """Makes the loss that Keras states that of one batch, not the mean so far."""
            self.model.reset_metrics()

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            """Smooths the loss."""
            loss = float((logs or {})["loss"])
            losses.append(loss)
            if not math.isfinite(loss) or loss > _DIVERGENCE_FACTOR * min(losses):
                self.model.stop_training = True

    tested = dataclasses.replace(phase, epochs=1, schedule=RANGE_TEST, learning_rate=1.0)
    fed = prepare_phase_data(trunks, phase, data, context)
    with attach_adapter(network, phase), use_fast_depthwise_gradients(top):
        compile_for_phase(top, network, tested, NUM_STEPS, phase_losses)
        batches = add_contrastive_targets(fed.training_batches(0, NUM_STEPS), network).take(NUM_STEPS)
        build_losses_and_metrics(top, batches)
        top.fit(batches, epochs=1, steps_per_epoch=NUM_STEPS, callbacks=[Watch()], verbose=0)
    top.set_weights(start)
    kept = np.array([loss for loss in losses if math.isfinite(loss)])
    rates = np.asarray(Schedule(tested, NUM_STEPS)(np.arange(len(kept))))
    return rates, smooth(kept)


def smooth(losses: np.ndarray) -> np.ndarray:
    """Exponential moving average, corrected for its start (arXiv 1412.6980, section 3)."""
    mean, found = 0.0, []
    for step, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        found.append(mean / (1 - _SMOOTHING**step))
    return np.array(found)
