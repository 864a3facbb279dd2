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
from tfx_finetune.core.config import DistillOptions, Phase
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.build import (
    compute_lr_multipliers,
    find_cut_tensors_by_tower,
    list_unfrozen_layers,
    set_stochastic_depth,
    split_model,
    towers_of_weights,
)
from tfx_finetune.models.freezing import parse_lr_multipliers
from tfx_finetune.models.mean_centering import fit_centering
from tfx_finetune.models.network import Network
from tfx_finetune.ops.depthwise import use_fast_depthwise_gradients
from tfx_finetune.ops.tf_data import make_zeros
from tfx_finetune.training import weight_averaging
from tfx_finetune.training.auxiliary_losses import add_auxiliary_losses, build_auxiliary_losses, make_auxiliary_outputs
from tfx_finetune.training.callbacks import CheckpointAndEarlyStopping, ValidationScorer
from tfx_finetune.training.checkpoint import Checkpoint, History, Weights
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.contrastive import add_contrastive_targets, make_losses
from tfx_finetune.training.distillation import add_distillation_losses, build_student_model
from tfx_finetune.training.gradient_modulation import MODULATION_SAMPLES, GradientModulation
from tfx_finetune.training.optimizer import make_optimizer
from tfx_finetune.training.phase_data import PhaseData, prepare_phase_data
from tfx_finetune.types.components import ADAPTERS
from tfx_finetune.types.training import AuxiliaryLoss

EpochCallback = Callable[[str, int, float], None]
_DEFAULT_DISTILL = DistillOptions()
# Between two runs of them Keras goes through its callbacks, which takes as long as a step of a small top; the bar
# moves with each run.
_MAX_STEPS_PER_EXECUTION = 8


def _noop(phase: str, epoch: int, score: float) -> None:
    """Watches nothing."""


def fit_phase(
    network: Network,
    name: str,
    phase: Phase,
    data: Data,
    context: TrainingContext,
    epoch_callback: EpochCallback = _noop,
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
    checkpoint = Checkpoint.for_phase(context.workdir, name)
    steps = data.steps
    objectives = build_auxiliary_losses(network, data, context.auxiliary_losses, phase.epochs * steps, context.seed)
    trunks, top = split_model(network, phase.unfreeze, make_auxiliary_outputs(objectives))
    top = build_student_model(top, network, bool(context.teachers))
    if done := checkpoint.load_result():
        top.set_weights(done[1])
        return done[0]
    resumed = checkpoint.load_state()
    history = resumed[0] if resumed else History(name)
    started = time.monotonic() - history.seconds
    fed = prepare_phase_data(trunks, phase, data, context)
    # Later, or from a bundle, heads know already what they see.
    if name.startswith(next(iter(context.phases), "")) and not context.same_head_inputs:
        fit_centering(
            network.model, network.backbones, find_cut_tensors_by_tower(network, phase.unfreeze), fed.sample_train_batch
        )
    set_stochastic_depth(network, phase.stochastic_depth)
    with attach_adapter(network, phase), use_fast_depthwise_gradients(top):
        start = top.get_weights()
        compile_for_phase(top, network, phase, steps, context.distill, objectives, choose_steps_per_execution(steps))
        history.trained_parameters, history.parameters = (
            _count_parameters(top.trainable_weights),
            _count_parameters(network.model.weights),
        )
        with progress.bar(name, phase.epochs * steps) as advance:
            judge = ValidationScorer(top, network, fed.val)
            keeper = CheckpointAndEarlyStopping(
                top, judge, history, checkpoint, phase, context.seed, started, advance, epoch_callback
            )
            keeper.restore(resumed)
            advance(history.epochs * steps)
            if not keeper.should_stop:
                _fit_epochs(top, network, phase, fed, keeper, context.workdir / "tensorboard" / name, steps)
            weights, history.selection, history.val_score = select_weights(keeper, start, phase)
        top.set_weights(weights)
    history.seconds = time.monotonic() - started
    checkpoint.finish(history, top.get_weights())
    return history


def _fit_epochs(
    trainable_part: keras.Model,
    network: Network,
    phase: Phase,
    phase_data: PhaseData,
    callback: CheckpointAndEarlyStopping,
    log_dir: Path,
    steps_per_epoch: int,
) -> None:
    """Trains the top, which is compiled, for the epochs that its history lacks; the keeper has what each came by."""
    done = callback.history.epochs
    batches = add_contrastive_targets(phase_data.training_batches(done, phase.epochs), network)
    build_losses_and_metrics(trainable_part, batches)
    trainable_part.fit(
        batches,
        epochs=phase.epochs,
        initial_epoch=done,
        steps_per_epoch=steps_per_epoch,
        callbacks=[
            callback,
            keras.callbacks.TensorBoard(log_dir, write_graph=False),
            *make_modulation_callbacks(trainable_part, network, phase_data, phase),
        ],
        shuffle=False,
        verbose=0,
    )


def compile_for_phase(
    trainable_part: keras.Model,
    network: Network,
    phase: Phase,
    steps_per_epoch: int,
    distill: DistillOptions = _DEFAULT_DISTILL,
    auxiliary_losses: Mapping[str, AuxiliaryLoss] | None = None,
    steps_per_execution: int = 1,
) -> None:
    """Compiles the top, with the outputs of objectives, for a phase of `phase.epochs` epochs of `steps` steps.

    So many of them `at_once` are one call of TensorFlow.
    """
    start = [weight.numpy() for weight in trainable_part.trainable_weights]
    loss, weights = add_auxiliary_losses(
        add_distillation_losses(make_losses(network), trainable_part, network, distill), auxiliary_losses or {}
    )
    each = compute_lr_multipliers(
        network,
        trainable_part,
        phase.layer_decay,
        parse_lr_multipliers("rates", phase.lr_multipliers, network.backbones),
    )
    metrics = {f"{head}/logits": task.make_metrics() for head, task in network.tasks.items()}
    trainable_part.compile(
        optimizer=make_optimizer(phase, steps_per_epoch, each, start, towers_of_weights(network, trainable_part)),
        loss=loss,
        loss_weights=weights,
        # What stands beside samples without their labels is not counted.
        **{"weighted_metrics" if auxiliary_losses else "metrics": metrics},
        jit_compile=hardware.detect().jit_compile,
        steps_per_execution=steps_per_execution,
    )


def build_losses_and_metrics(trainable_part: keras.Model, batches: tf.data.Dataset) -> None:
    """Makes the variables of losses and metrics, which Keras would make in its first step.

    TensorFlow traces a function again that has made variables, as the losses of several heads do.
    """
    inputs, targets, weights = make_zeros(batches.element_spec)
    outputs = make_zeros(trainable_part.output)
    trainable_part.compute_loss(inputs, targets, outputs, weights)
    trainable_part.compute_metrics(inputs, targets, outputs, weights)
    trainable_part.reset_metrics()


def choose_steps_per_execution(steps_per_epoch: int) -> int:
    """How many steps of an epoch are run at once: the most that divide it, else Keras would run into the next one."""
    return max(count for count in range(1, _MAX_STEPS_PER_EXECUTION + 1) if steps_per_epoch % count == 0)


def make_modulation_callbacks(
    trainable_part: keras.Model, network: Network, phase_data: PhaseData, phase: Phase
) -> list[keras.callbacks.Callback]:
    """What slows a tower that is ahead, where the phase wants that and there are several."""
    if not phase.gradient_modulation or len(network.backbones) == 1:
        return []
    return [
        GradientModulation(
            trainable_part,
            network,
            *phase_data.sample_train_batch(MODULATION_SAMPLES),
            trainable_part.optimizer.slowed,
            phase.gradient_modulation,
        )
    ]


def select_weights(
    callback: CheckpointAndEarlyStopping, initial_weights: Weights, phase: Phase
) -> tuple[Weights, str, float]:
    """Returns the weights that a phase leaves, in words what they are, and their validation score.

    They are those of the last epoch, or an average of the last ones, moved towards the start where that is better; an
    earlier epoch or the start where that is better. Better is what the validation samples tell beyond the margin.
    """
    judge, margin = callback.scorer, callback.margin
    epochs = callback.selected_epochs()
    candidates, kept = [callback.checkpoint.load_epoch(epoch) for epoch in epochs], f"epoch {epochs[0] + 1}"
    if not judge.val:
        return candidates[0], kept, callback.history.val_score
    weights, count, score = weight_averaging.greedy_soup(candidates, judge, margin)
    kept = f"the average of {count} epochs" if count > 1 else kept
    if phase.wise_ft:
        weights, share, score = weight_averaging.interpolate(initial_weights, weights, score, judge, margin)
        kept = kept if share == 1 else f"{share:.1f} of the way from the start to {kept}"
    began = callback.history.start[0]
    if score + margin < began:
        return initial_weights, "the start, than which nothing was better", began
    return weights, kept, score


@contextlib.contextmanager
def attach_adapter(network: Network, phase: Phase) -> Iterator[None]:
    """Has the phase's adapter, if it has one, in the layers that the phase unfreezes."""
    if not phase.adapter:
        yield
        return
    adapter, layers = ADAPTERS.build(parse_spec(phase.adapter)), list_unfrozen_layers(network, phase.unfreeze)
    try:
        adapter.attach(layers)
        yield
    finally:
        adapter.merge(layers)


def _count_parameters(weights: list[Any]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)
