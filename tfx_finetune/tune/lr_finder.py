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
from tfx_finetune.models.build import cut
from tfx_finetune.models.network import Network
from tfx_finetune.ops.depthwise import quick_gradients
from tfx_finetune.report.plots import rates_plot
from tfx_finetune.training.auxiliary_losses import outputs, terms
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.contrastive import with_views
from tfx_finetune.training.distillation import pupil
from tfx_finetune.training.optimizer import RANGE, Schedule
from tfx_finetune.training.phase_data import feed, feed_ahead
from tfx_finetune.training.trainer import adapted, compile_top, fit_phase, traced_once

STEPS = 120
_SMOOTH = 0.9
_EXPLODED = 3.0


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
        feed_ahead(network, data, apart)
        for name, phase in context.phases.items():
            rates, losses = _curve(network, phase, data, apart)
            curves[name] = rates.tolist(), losses.tolist()
            found[name] = steepest(rates, losses)
            given = f"--{name}.learning_rate={phase.learning_rate:.1e}"
            progress.say(f"{name}: the loss fell fastest at {found[name]:.1e} (the run has {given})")
            if name != list(context.phases)[-1]:
                fit_phase(network, name, phase, data, apart)
    with files.atomic(context.workdir / "find_lr.svg") as draft:
        draft.write_text(rates_plot({name: (*curve, found[name]) for name, curve in curves.items()}))
    return found


def steepest(rates: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray) -> float:
    """The rate at which the loss falls fastest by its logarithm.

    Args:
        rates: Increasing.
        losses: Smoothed loss at each.
    """
    slope = np.gradient(np.asarray(losses), np.log(np.asarray(rates)))
    return float(rates[int(slope.argmin())])


def _curve(network: Network, phase: Phase, data: Data, context: TrainingContext) -> tuple[np.ndarray, np.ndarray]:
    """Rates and smoothed losses, up to where the loss exploded; the network is left as it was."""
    objectives = terms(network, data, context.objectives, STEPS, context.seed)
    trunks, top = cut(network, phase.unfreeze, outputs(objectives))
    top = pupil(top, network, bool(context.teachers))
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
            if not math.isfinite(loss) or loss > _EXPLODED * min(losses):
                self.model.stop_training = True

    tested = dataclasses.replace(phase, epochs=1, schedule=RANGE, learning_rate=1.0)
    fed = feed(trunks, phase, data, context)
    with adapted(network, phase), quick_gradients(top):
        compile_top(top, network, tested, STEPS, context.distill, objectives)
        batches = with_views(fed.batches(0, STEPS), network).take(STEPS)
        traced_once(top, batches)
        top.fit(batches, epochs=1, steps_per_epoch=STEPS, callbacks=[Watch()], verbose=0)
    top.set_weights(start)
    kept = np.array([loss for loss in losses if math.isfinite(loss)])
    rates = np.asarray(Schedule(tested, STEPS)(np.arange(len(kept))))
    return rates, smoothed(kept)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Exponential moving average, corrected for its start (arXiv 1412.6980, section 3)."""
    mean, found = 0.0, []
    for step, loss in enumerate(losses, 1):
        mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
        found.append(mean / (1 - _SMOOTH**step))
    return np.array(found)
