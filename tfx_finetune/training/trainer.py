"""STATION: run one phase of training on (trunk, top).

A tower's trunk is all that the phase leaves frozen below its cut. Its outputs do not change between epochs, so they are
computed once a sample and view, and `fit` sees the top alone. Where everything is trained there is no trunk, and
`fit` sees augmented batches from the pipeline: the same code.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfx_finetune.core import hardware, progress
from tfx_finetune.core.config import Distill, Phase
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.build import cut, joints_of, owners, rates, set_stochastic_depth, unfrozen_layers
from tfx_finetune.models.freezing import factors
from tfx_finetune.models.mean_centering import centre
from tfx_finetune.models.network import Network
from tfx_finetune.ops.depthwise import quick_gradients
from tfx_finetune.ops.tf_data import zeros
from tfx_finetune.training import weight_averaging
from tfx_finetune.training.auxiliary_losses import outputs, terms, with_objectives
from tfx_finetune.training.callbacks import Judge, Keeper
from tfx_finetune.training.checkpoint import Checkpoint, History, Weights
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.contrastive import losses, with_views
from tfx_finetune.training.distillation import pupil, with_teacher
from tfx_finetune.training.gradient_modulation import SAMPLES, Balance
from tfx_finetune.training.optimizer import make_optimizer
from tfx_finetune.training.phase_data import Feed, feed
from tfx_finetune.types.components import ADAPTERS
from tfx_finetune.types.training import Term

Watch = Callable[[str, int, float], None]
_DISTILL = Distill()
# Between two runs of them Keras goes through its callbacks, which takes as long as a step of a small top; the bar
# moves with each run.
_MOST_AT_ONCE = 8


def _nobody(phase: str, epoch: int, score: float) -> None:
    """Watches nothing."""


def fit_phase(
    network: Network,
    name: str,
    phase: Phase,
    data: Data,
    context: TrainingContext,
    watch: Watch = _nobody,
) -> History:
    """Trains what a phase unfreezes and leaves the network with the best weights that the phase came by.

    The state after every epoch is kept in `workdir/checkpoints/<name>`; a phase that was interrupted goes on there.

    Args:
        network: The whole model; its weights are changed in place.
        name: The phase's name.
        phase: How to train.
        data: Samples of all splits.
        context: Settings of the run.
        watch: Told the phase, the epoch (from 0) and its validation score after each; what it raises ends the phase.

    Raises:
        UserError: The loss is not a number.
    """
    checkpoint = Checkpoint.of(context.workdir, name)
    steps = data.steps
    objectives = terms(network, data, context.objectives, phase.epochs * steps, context.seed)
    trunks, top = cut(network, phase.unfreeze, outputs(objectives))
    top = pupil(top, network, bool(context.teachers))
    if done := checkpoint.result():
        top.set_weights(done[1])
        return done[0]
    resumed = checkpoint.load()
    history = resumed[0] if resumed else History(name)
    started = time.monotonic() - history.seconds
    fed = feed(trunks, phase, data, context)
    # Later, or from a bundle, heads know already what they see.
    if name.startswith(next(iter(context.phases), "")) and not context.same_head_inputs:
        centre(network.model, network.backbones, joints_of(network, phase.unfreeze), fed.some)
    set_stochastic_depth(network, phase.stochastic_depth)
    with adapted(network, phase), quick_gradients(top):
        start = top.get_weights()
        compile_top(top, network, phase, steps, context.distill, objectives, together(steps))
        history.trained, history.parameters = _count(top.trainable_weights), _count(network.model.weights)
        with progress.bar(name, phase.epochs * steps) as advance:
            judge = Judge(top, network, fed.val)
            keeper = Keeper(top, judge, history, checkpoint, phase, context.seed, started, advance, watch)
            keeper.begin(resumed)
            advance(history.epochs * steps)
            if not keeper.over:
                _run(top, network, phase, fed, keeper, context.workdir / "tensorboard" / name, steps)
            weights, history.kept, history.result = choose(keeper, start, phase)
        top.set_weights(weights)
    history.seconds = time.monotonic() - started
    checkpoint.finish(history, top.get_weights())
    return history


def _run(top: keras.Model, network: Network, phase: Phase, fed: Feed, keeper: Keeper, board: Path, steps: int) -> None:
    """Trains the top, which is compiled, for the epochs that its history lacks; the keeper has what each came by."""
    done = keeper.history.epochs
    batches = with_views(fed.batches(done, phase.epochs), network)
    traced_once(top, batches)
    top.fit(
        batches,
        epochs=phase.epochs,
        initial_epoch=done,
        steps_per_epoch=steps,
        callbacks=[keeper, keras.callbacks.TensorBoard(board, write_graph=False), *balanced(top, network, fed, phase)],
        shuffle=False,
        verbose=0,
    )


def compile_top(
    top: keras.Model,
    network: Network,
    phase: Phase,
    steps: int,
    distill: Distill = _DISTILL,
    objectives: Mapping[str, Term] | None = None,
    at_once: int = 1,
) -> None:
    """Compiles the top, with the outputs of objectives, for a phase of `phase.epochs` epochs of `steps` steps.

    So many of them `at_once` are one call of TensorFlow.
    """
    start = [weight.numpy() for weight in top.trainable_weights]
    loss, weights = with_objectives(with_teacher(losses(network), top, network, distill), objectives or {})
    each = rates(network, top, phase.layer_decay, factors("rates", phase.rates, network.backbones))
    metrics = {f"{head}/logits": task.metrics() for head, task in network.tasks.items()}
    top.compile(
        optimizer=make_optimizer(phase, steps, each, start, owners(network, top)),
        loss=loss,
        loss_weights=weights,
        # What stands beside samples without their labels is not counted.
        **{"weighted_metrics" if objectives else "metrics": metrics},
        jit_compile=hardware.detect().jit_compile,
        steps_per_execution=at_once,
    )


def traced_once(top: keras.Model, batches: tf.data.Dataset) -> None:
    """Makes the variables of losses and metrics, which Keras would make in its first step.

    TensorFlow traces a function again that has made variables, as the losses of several heads do.
    """
    inputs, targets, weights = zeros(batches.element_spec)
    outputs = zeros(top.output)
    top.compute_loss(inputs, targets, outputs, weights)
    top.compute_metrics(inputs, targets, outputs, weights)
    top.reset_metrics()


def together(steps: int) -> int:
    """How many steps of an epoch are run at once: the most that divide it, else Keras would run into the next one."""
    return max(count for count in range(1, _MOST_AT_ONCE + 1) if steps % count == 0)


def balanced(top: keras.Model, network: Network, fed: Feed, phase: Phase) -> list[keras.callbacks.Callback]:
    """What slows a tower that is ahead, where the phase wants that and there are several."""
    if not phase.ogm or len(network.backbones) == 1:
        return []
    return [Balance(top, network, *fed.some(SAMPLES), top.optimizer.slowed, phase.ogm)]


def choose(keeper: Keeper, start: Weights, phase: Phase) -> tuple[Weights, str, float]:
    """Returns the weights that a phase leaves, in words what they are, and their validation score.

    They are those of the last epoch, or an average of the last ones, moved towards the start where that is better; an
    earlier epoch or the start where that is better. Better is what the validation samples tell beyond the margin.
    """
    judge, margin = keeper.judge, keeper.margin
    epochs = keeper.wanted()
    candidates, kept = [keeper.checkpoint.epoch(epoch) for epoch in epochs], f"epoch {epochs[0] + 1}"
    if not judge.val:
        return candidates[0], kept, keeper.history.result
    weights, count, score = weight_averaging.greedy_soup(candidates, judge, margin)
    kept = f"the average of {count} epochs" if count > 1 else kept
    if phase.interpolate:
        weights, share, score = weight_averaging.interpolate(start, weights, score, judge, margin)
        kept = kept if share == 1 else f"{share:.1f} of the way from the start to {kept}"
    began = keeper.history.start[0]
    if score + margin < began:
        return start, "the start, than which nothing was better", began
    return weights, kept, score


@contextlib.contextmanager
def adapted(network: Network, phase: Phase) -> Iterator[None]:
    """Has the phase's adapter, if it has one, in the layers that the phase unfreezes."""
    if not phase.adapter:
        yield
        return
    adapter, layers = ADAPTERS.build(parse_spec(phase.adapter)), unfrozen_layers(network, phase.unfreeze)
    try:
        adapter.attach(layers)
        yield
    finally:
        adapter.merge(layers)


def _count(weights: list[Any]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)
