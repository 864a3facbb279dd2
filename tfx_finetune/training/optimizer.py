"""Optimizer and learning rate schedule of a phase, with a learning rate and a decay target per weight."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core.config import Phase

_OPTIMIZERS = {
    "adamw": keras.optimizers.AdamW,
    "sgd": keras.optimizers.SGD,
    "lion": keras.optimizers.Lion,
    "muon": keras.optimizers.Muon,
}
_OPTIMIZER_OPTIONS = {"sgd": {"momentum": 0.9, "nesterov": True}}
RANGE_TEST = "range"
"""Schedule of learning rate range tests only: rises exponentially from a millionth of the peak to the peak."""


def make_optimizer(
    phase: Phase,
    steps_per_epoch: int,
    lr_multipliers: Sequence[float],
    initial_weights: Sequence[np.ndarray],
    tower_of_weight: Sequence[str] = (),
) -> keras.Optimizer:
    """Build the optimizer of a phase.

    Weight decay is decoupled (arXiv 1711.05101) and exempts biases and normalization.

    Args:
        phase: Options of the phase. Optimizers: AdamW (arXiv 1711.05101), SGD with Nesterov momentum 0.9, Lion
            (arXiv 2302.06675), and Muon (https://kellerjordan.github.io/posts/muon), which uses AdamW for weights that
            are not matrices.
        steps_per_epoch: Number of training steps per epoch.
        lr_multipliers: Learning rate multiplier of each trained weight.
        initial_weights: Values of the trained weights at the start of the phase. With `--<phase>.l2_sp`, weights decay
            towards them instead of 0 (L2-SP, arXiv 1802.01483).
        tower_of_weight: Name of the tower of each trained weight, for `clip_norm_per_tower` and `gradient_modulation`;
            empty if a weight belongs to no tower.

    Returns:
        The optimizer. Its attribute `modulation_coefficients` holds a variable per tower, initially 1, which multiplies
        the steps of the weights of the tower if `gradient_modulation` is on.
    """
    options = dict(_OPTIMIZER_OPTIONS.get(phase.optimizer, {}))
    if phase.ema_momentum:
        options["ema_momentum"] = phase.ema_momentum
    accumulation = phase.gradient_accumulation_steps
    optimizer = _make_optimizer_class(phase, lr_multipliers, initial_weights, tower_of_weight)(
        Schedule(phase, phase.epochs * steps_per_epoch),
        weight_decay=phase.weight_decay,
        global_clipnorm=phase.clip_norm or None,
        clipvalue=phase.clip_value or None,
        use_ema=bool(phase.ema_momentum),
        gradient_accumulation_steps=accumulation if accumulation > 1 else None,
        name=phase.optimizer,
        **options,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _make_optimizer_class(
    phase: Phase, lr_multipliers: Sequence[float], initial_weights: Sequence[np.ndarray], tower_of_weight: Sequence[str]
) -> Any:
    """Return the optimizer class of the phase; the arguments are those of `make_optimizer`."""
    coefficients = {tower: keras.Variable(1.0, trainable=False) for tower in dict.fromkeys(tower_of_weight) if tower}
    decay_targets = [keras.Variable(value, trainable=False) for value in initial_weights] if phase.l2_sp else None
    base: Any = _OPTIMIZERS[phase.optimizer]

    class PerWeightOptimizer(base):
        """Optimizer with a learning rate multiplier and a decay target per weight."""

        modulation_coefficients = coefficients

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            """Update one weight."""
            index = self._get_variable_index(variable)
            learning_rate = learning_rate * lr_multipliers[index]
            if phase.gradient_modulation and tower_of_weight[index]:
                # The step is scaled, not the gradient: Adam and Lion are invariant to the size of gradients.
                learning_rate *= coefficients[tower_of_weight[index]]
            if base is keras.optimizers.AdamW:
                _fused_adam_step(self, gradient, variable, learning_rate)
            else:
                super().update_step(gradient, variable, learning_rate)

        def _clip_gradients(self, gradients: Any) -> Any:
            """Clip the global norm of all gradients, or the norm of each tower's gradients."""
            clip = super()._clip_gradients
            return _clip_per_tower(clip, gradients, tower_of_weight) if phase.clip_norm_per_tower else clip(gradients)

        def _apply_weight_decay(self, variables: Any) -> None:
            for variable in variables:
                if self._use_weight_decay(variable):
                    index = self._get_variable_index(variable)
                    excess = variable - decay_targets[index] if decay_targets else variable
                    variable.assign_sub(excess * (self.weight_decay * lr_multipliers[index] * self.learning_rate))

    return PerWeightOptimizer


def _clip_per_tower(
    clip: Callable[[list], list], gradients: Sequence[Any], tower_of_weight: Sequence[str]
) -> list[Any]:
    """Return the gradients, those of each tower clipped together."""
    clipped = list(gradients)
    for tower in dict.fromkeys(tower_of_weight):
        indices = [index for index, name in enumerate(tower_of_weight) if name == tower]
        for index, gradient in zip(indices, clip([gradients[index] for index in indices]), strict=True):
            clipped[index] = gradient
    return clipped


def _fused_adam_step(optimizer: Any, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
    """Update one weight with Keras's Adam step as a single TensorFlow operation.

    Keras uses about a dozen operations, which is a fifth of the step time for deep networks on small images.
    """
    index = optimizer._get_variable_index(variable)
    step = tf.cast(optimizer.iterations + 1, variable.dtype)
    first, second = (tf.constant(beta, variable.dtype) for beta in (optimizer.beta_1, optimizer.beta_2))
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=optimizer._momentums[index].value.handle,
        v=optimizer._velocities[index].value.handle,
        beta1_power=first**step,
        beta2_power=second**step,
        lr=tf.cast(learning_rate, variable.dtype),
        beta1=first,
        beta2=second,
        epsilon=tf.constant(optimizer.epsilon, variable.dtype),
        grad=tf.cast(gradient, variable.dtype),
    )


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate schedule: a rise from 0 to the peak, then a decay.

    - `cosine` (arXiv 1608.03983), `linear` and `constant`: linear rise over the fraction `warmup_ratio` of the steps.
    - `one_cycle` (arXiv 1708.07120): cosine rise over 30 % of the steps, whatever `warmup_ratio` is.

    Args:
        phase: Options of the phase: schedule, peak learning rate and warmup ratio.
        total_steps: Number of steps of the phase.

    Examples:
        >>> schedule = Schedule(Phase(learning_rate=0.1, schedule="linear", warmup_ratio=0.5), total_steps=10)
        >>> [round(float(schedule(step)), 2) for step in (0, 5, 10)]
        [0.0, 0.1, 0.0]
    """

    def __init__(self, phase: Phase, total_steps: int) -> None:
        self.kind, self.peak_lr, self.total_steps = phase.schedule, phase.learning_rate, max(total_steps, 1)
        self.warmup_steps = int((0.3 if self.kind == "one_cycle" else phase.warmup_ratio) * self.total_steps)

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """Return the learning rate of a step, counted from 0."""
        step = keras.ops.cast(step, "float32")
        if self.kind == RANGE_TEST:
            return self.peak_lr * 10 ** (-6 * (1 - step / self.total_steps))
        rise = step / max(self.warmup_steps, 1)
        progress = keras.ops.minimum((step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1), 1.0)
        if self.kind == "one_cycle":
            rise = 1 - _cosine_decay(rise)
        if self.kind == "constant":
            decay = keras.ops.ones_like(progress)
        else:
            decay = 1 - progress if self.kind == "linear" else _cosine_decay(progress)
        return self.peak_lr * keras.ops.where(step < self.warmup_steps, rise, decay)

    def get_config(self) -> dict:
        """Return the configuration, which Keras needs to serialize an optimizer."""
        return {
            "kind": self.kind,
            "peak_lr": self.peak_lr,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }


def _cosine_decay(fraction: keras.KerasTensor) -> keras.KerasTensor:
    return 0.5 * (1 + keras.ops.cos(math.pi * fraction))
