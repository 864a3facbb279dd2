"""Training of one phase.

`split_model` cuts the network at the lowest unfrozen layer group into a frozen part per tower and a trainable part. The
features of the frozen part do not change between epochs, so they are computed once per sample and augmented view, and
`fit` trains the trainable part only. If a phase unfreezes everything, `fit` trains the whole network on augmented
batches, by the same code.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfx_finetune.core import hardware, progress
from tfx_finetune.core.config import Phase
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.build import set_stochastic_depth
from tfx_finetune.models.freezing import parse_lr_multipliers
from tfx_finetune.models.lr_multipliers import compute_lr_multipliers, find_weight_towers
from tfx_finetune.models.mean_centering import fit_centering
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import find_cut_tensors_by_tower, list_unfrozen_layers, split_model
from tfx_finetune.ops.depthwise import use_fast_depthwise_gradients
from tfx_finetune.ops.tf_data import make_zeros
from tfx_finetune.training.auxiliary_losses import add_auxiliary_losses, build_auxiliary_losses, make_auxiliary_outputs
from tfx_finetune.training.callbacks import (
    CheckpointAndEarlyStopping,
    EpochCallback,
    PhaseRun,
    ValidationScorer,
    select_weights,
)
from tfx_finetune.training.checkpoint import Checkpoint, History
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.contrastive import add_contrastive_targets, make_losses
from tfx_finetune.training.distillation import add_distillation_losses, build_student_model
from tfx_finetune.training.gradient_modulation import MODULATION_SAMPLES, GradientModulation
from tfx_finetune.training.optimizer import make_optimizer
from tfx_finetune.training.pair_sampler import objective_output_name
from tfx_finetune.training.phase_data import PhaseData, prepare_phase_data
from tfx_finetune.types.components import ADAPTERS
from tfx_finetune.types.training import WeightedLosses

# Keras runs its callbacks between executions, which takes as long as a step of a small model. The progress bar advances
# once per execution.
_MAX_STEPS_PER_EXECUTION = 8


def _noop(phase: str, epoch: int, score: float) -> None:
    """Do nothing after an epoch."""


class PhaseModel(NamedTuple):
    """Network of one phase, split into frozen and trainable parts.

    Attributes:
        trunks: Frozen part of each tower; towers without a frozen part are omitted.
        trainable_part: Model from the features of the frozen parts to the outputs that have a loss.
        losses: Losses of these outputs.
    """

    trunks: Mapping[str, keras.Model]
    trainable_part: keras.Model
    losses: WeightedLosses


def build_phase_model(
    network: Network, phase: Phase, data: Data, context: TrainingContext, total_steps: int
) -> PhaseModel:
    """Split the network for a phase, with the auxiliary losses and the distillation losses of the run.

    Args:
        network: The whole model.
        phase: Options of the phase.
        data: Samples of all splits.
        context: Settings of the run.
        total_steps: Number of training steps of the phase.
    """
    auxiliary_losses = build_auxiliary_losses(network, data, context.auxiliary_losses, total_steps, context.seed)
    trunks, trainable_part = split_model(network, phase.unfreeze, make_auxiliary_outputs(auxiliary_losses))
    trainable_part = build_student_model(trainable_part, network, bool(context.teachers))
    losses = add_distillation_losses(make_losses(network), trainable_part, network, context.distill)
    return PhaseModel(trunks, trainable_part, add_auxiliary_losses(losses, auxiliary_losses))


def fit_phase(
    network: Network,
    name: str,
    phase: Phase,
    data: Data,
    context: TrainingContext,
    epoch_callback: EpochCallback = _noop,
) -> History:
    """Train a phase and leave the network with the selected weights.

    The state after every epoch is saved in `workdir/checkpoints/<name>`; an interrupted phase resumes from there.

    Args:
        network: The whole model; its weights are changed in place.
        name: Name of the phase, such as `frozen` or `finetune`.
        phase: Options of the phase.
        data: Samples of all splits.
        context: Settings of the run.
        epoch_callback: Called as f(phase name, epoch from 0, validation score) after every epoch. An exception that it
            raises stops the phase.

    Raises:
        UserError: If the loss is not a finite number.
    """
    checkpoint = Checkpoint.for_phase(context.workdir, name)
    steps = data.steps
    trunks, model, losses = build_phase_model(network, phase, data, context, phase.epochs * steps)
    if result := checkpoint.load_result():
        history, weights = result
        model.set_weights(weights)
        return history
    state = checkpoint.load_state()
    history = state[0] if state else History(name)
    start_time = time.monotonic() - history.seconds
    phase_data = prepare_phase_data(trunks, phase, data, context)
    is_first_phase = name.startswith(next(iter(context.phases), ""))
    if is_first_phase and not context.same_head_inputs:
        cut_tensors = find_cut_tensors_by_tower(network, phase.unfreeze)
        fit_centering(network.model, network.backbones, cut_tensors, phase_data.sample_train_batch)
    set_stochastic_depth(network, phase.stochastic_depth)
    with attach_adapter(network, phase), use_fast_depthwise_gradients(model):
        initial_weights = model.get_weights()
        compile_for_phase(model, network, phase, steps, losses, choose_steps_per_execution(steps))
        history.trained_parameters = _count_parameters(model.trainable_weights)
        history.parameters = _count_parameters(network.model.weights)
        with progress.bar(name, phase.epochs * steps) as advance:
            scorer = ValidationScorer(model, network, phase_data.val)
            phase_run = PhaseRun(phase, context.seed, history, checkpoint, start_time)
            callback = CheckpointAndEarlyStopping(scorer, phase_run, advance, epoch_callback)
            callback.restore(state)
            advance(history.epochs * steps)
            if not callback.should_stop:
                _fit_epochs(phase_data, callback, context.workdir / "tensorboard" / name)
            weights, history.selection, history.val_score = select_weights(callback, initial_weights)
        model.set_weights(weights)
    history.seconds = time.monotonic() - start_time
    checkpoint.finish(history, model.get_weights())
    return history


def _fit_epochs(phase_data: PhaseData, callback: CheckpointAndEarlyStopping, log_dir: Path) -> None:
    """Train the compiled trainable part for the epochs that are not in the history yet.

    Args:
        phase_data: Training and validation data of the phase.
        callback: Callback that validates and saves every epoch.
        log_dir: Folder of TensorBoard logs.
    """
    model, phase, first_epoch = callback.trainable_part, callback.phase, callback.history.epochs
    network = callback.scorer.network
    batches = add_contrastive_targets(phase_data.training_batches(first_epoch, phase.epochs), network)
    build_losses_and_metrics(model, batches)
    model.fit(
        batches,
        epochs=phase.epochs,
        initial_epoch=first_epoch,
        steps_per_epoch=phase_data.data.steps,
        callbacks=[
            callback,
            keras.callbacks.TensorBoard(log_dir, write_graph=False),
            *make_modulation_callbacks(model, network, phase_data, phase),
        ],
        shuffle=False,
        verbose=0,
    )


def compile_for_phase(
    trainable_part: keras.Model,
    network: Network,
    phase: Phase,
    steps_per_epoch: int,
    losses: WeightedLosses | None = None,
    steps_per_execution: int = 1,
) -> None:
    """Compile the trainable part for a phase.

    Args:
        trainable_part: The model that the phase trains.
        network: The whole model.
        phase: Options of the phase.
        steps_per_epoch: Number of training steps per epoch.
        losses: Losses of the outputs, or None for the losses of the network.
        steps_per_execution: Number of training steps per call of TensorFlow. Default 1.
    """
    losses = losses or make_losses(network)
    initial_weights = [weight.numpy() for weight in trainable_part.trainable_weights]
    tower_multipliers = parse_lr_multipliers("lr_multipliers", phase.lr_multipliers, network.backbones)
    lr_multipliers = compute_lr_multipliers(network, trainable_part, phase.layer_decay, tower_multipliers)
    tower_of_weight = find_weight_towers(network, trainable_part)
    metrics = {f"{head}/logits": task.make_metrics() for head, task in network.tasks.items()}
    has_auxiliary_loss = any(output.startswith(objective_output_name("")) for output in losses.losses)
    trainable_part.compile(
        optimizer=make_optimizer(phase, steps_per_epoch, lr_multipliers, initial_weights, tower_of_weight),
        loss=losses.losses,
        loss_weights=losses.weights,
        # Metrics are weighted, so that appended samples without a label do not count.
        **{"weighted_metrics" if has_auxiliary_loss else "metrics": metrics},
        jit_compile=hardware.detect().jit_compile,
        steps_per_execution=steps_per_execution,
    )


def build_losses_and_metrics(trainable_part: keras.Model, batches: tf.data.Dataset) -> None:
    """Create the variables of losses and metrics before the first step.

    Keras creates them in the first step, after which TensorFlow would trace the step a second time.

    Args:
        trainable_part: The compiled model.
        batches: Training batches (inputs, targets, weights).
    """
    inputs, targets, weights = make_zeros(batches.element_spec)
    outputs = make_zeros(trainable_part.output)
    trainable_part.compute_loss(inputs, targets, outputs, weights)
    trainable_part.compute_metrics(inputs, targets, outputs, weights)
    trainable_part.reset_metrics()


def choose_steps_per_execution(steps_per_epoch: int) -> int:
    """Return the largest `steps_per_execution`, at most 8, that divides the number of steps per epoch.

    With any other value, Keras would continue into the next epoch.

    Examples:
        >>> choose_steps_per_execution(12), choose_steps_per_execution(11)
        (6, 1)
    """
    return max(count for count in range(1, _MAX_STEPS_PER_EXECUTION + 1) if steps_per_epoch % count == 0)


def make_modulation_callbacks(
    trainable_part: keras.Model, network: Network, phase_data: PhaseData, phase: Phase
) -> list[keras.callbacks.Callback]:
    """Return the gradient modulation callback if the phase has the option and the network several towers."""
    if not phase.gradient_modulation or len(network.backbones) == 1:
        return []
    inputs, targets = phase_data.sample_train_batch(MODULATION_SAMPLES)
    return [GradientModulation(trainable_part, network, inputs, targets, phase.gradient_modulation)]


@contextlib.contextmanager
def attach_adapter(network: Network, phase: Phase) -> Iterator[None]:
    """Attach the adapter of the phase to the unfrozen layers inside the `with` block, and merge it on exit.

    Args:
        network: The whole model.
        phase: Options of the phase. Nothing happens without an adapter.
    """
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
