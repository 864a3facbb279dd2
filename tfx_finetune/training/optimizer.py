"""How a phase steps: the optimizer, its schedule, and what single weights get of both."""

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
RANGE_TEST = "range"
"""A schedule for range tests alone: from a millionth of the peak up to it, exponentially."""
_OPTIMIZER_OPTIONS = {"sgd": {"momentum": 0.9, "nesterov": True}}


def make_optimizer(
    phase: Phase,
    steps_per_epoch: int,
    lr_multipliers: Sequence[float],
    initial_weights: Sequence[np.ndarray],
    tower_of_weight: Sequence[str] = (),
) -> keras.Optimizer:
    """Returns the optimizer of a phase.

    Weight decay is decoupled (arXiv 1711.05101) and leaves out biases and normalization.

    Args:
        phase: AdamW (arXiv 1711.05101), SGD with Nesterov's momentum of 0.9, Lion (arXiv 2302.06675), or Muon
            (https://kellerjordan.github.io/posts/muon, AdamW for what is no matrix).
        steps: Steps of an epoch.
        rates: Factor of the learning rate for each trained weight.
        start: Values of the trained weights when the phase began. `--<phase>.decay_to=start` decays towards them in
            place of zero (L2-SP, arXiv 1802.01483).
        owners: The tower that each trained weight belongs to, for what is done by tower: `clip_each` and `ogm`.

    Returns:
        The optimizer. Its `slowed` has the factor of the steps of each tower, 1 at first.
    """
    options = _OPTIMIZER_OPTIONS.get(phase.optimizer, {}) | (
        {"ema_momentum": phase.ema_momentum} if phase.ema_momentum else {}
    )
    optimizer = _make_optimizer_class(phase, lr_multipliers, initial_weights, tower_of_weight)(
        Schedule(phase, phase.epochs * steps_per_epoch),
        weight_decay=phase.weight_decay,
        global_clipnorm=phase.clip_norm or None,
        clipvalue=phase.clip_value or None,
        use_ema=bool(phase.ema_momentum),
        gradient_accumulation_steps=phase.gradient_accumulation_steps
        if phase.gradient_accumulation_steps > 1
        else None,
        name=phase.optimizer,
        **options,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _make_optimizer_class(
    phase: Phase, lr_multipliers: Sequence[float], initial_weights: Sequence[np.ndarray], tower_of_weight: Sequence[str]
) -> Any:
    """The class of the phase's optimizer; the arguments are those of `make_optimizer`."""
    factors = {tower: keras.Variable(1.0, trainable=False) for tower in dict.fromkeys(tower_of_weight) if tower}
    anchors = [keras.Variable(value, trainable=False) for value in initial_weights] if phase.l2_sp == "start" else None
    kind: Any = _OPTIMIZERS[phase.optimizer]

    class Tailored(kind):
        """The optimizer with a rate and an anchor of its own for each weight."""

        slowed = factors

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            """Steps one weight."""
            index = self._get_variable_index(variable)
            rate = learning_rate * lr_multipliers[index]
            if phase.gradient_modulation and tower_of_weight[index]:
                # Of the step, not of the gradient: Adam and its kin divide by the gradients' own size.
                rate *= factors[tower_of_weight[index]]
            if kind is keras.optimizers.AdamW:
                _fused_adam_step(self, gradient, variable, rate)
            else:
                super().update_step(gradient, variable, rate)

        def _clip_gradients(self, gradients: Any) -> Any:
            """Clips by norm all gradients together, or those of each tower."""
            clip = super()._clip_gradients
            return _clip_per_tower(clip, gradients, tower_of_weight) if phase.clip_norm_per_tower else clip(gradients)

        def _apply_weight_decay(self, variables: Any) -> None:
            for variable in variables:
                if self._use_weight_decay(variable):
                    index = self._get_variable_index(variable)
                    excess = variable - anchors[index] if anchors else variable
                    variable.assign_sub(excess * (self.weight_decay * lr_multipliers[index] * self.learning_rate))

    return Tailored


def _clip_per_tower(
    clip: Callable[[list], list], gradients: Sequence[Any], tower_of_weight: Sequence[str]
) -> list[Any]:
    """Gradients clipped, those of each owner by themselves."""
    found = list(gradients)
    for owner in dict.fromkeys(tower_of_weight):
        rows = [row for row, one in enumerate(tower_of_weight) if one == owner]
        for row, clipped in zip(rows, clip([gradients[row] for row in rows]), strict=True):
            found[row] = clipped
    return found


def _fused_adam_step(optimizer: Any, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
    """Keras's step of Adam in one operation, not in a dozen passes over all weights.

    That is a fifth of a step's time where the top is deep and pictures are small.
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
    """A rise from 0 to the peak, then a fall.

    cosine (arXiv 1608.03983), linear and constant follow a linear rise over a share `warmup` of the steps; one_cycle
    (arXiv 1708.07120) rises over 30 % of them along a cosine, whatever `warmup` says.

    Args:
        phase: Names the schedule, its peak and its warm-up.
        total: Steps of the whole phase.
    """

    def __init__(self, phase: Phase, total_steps: int) -> None:
        self.kind, self.peak_lr, self.total_steps = phase.schedule, phase.learning_rate, max(total_steps, 1)
        self.warmup_steps = int((0.3 if self.kind == "one_cycle" else phase.warmup_ratio) * self.total_steps)

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """The learning rate of a step, counted from 0."""
        step = keras.ops.cast(step, "float32")
        if self.kind == RANGE_TEST:
            return self.peak_lr * 10 ** (-6 * (1 - step / self.total_steps))
        up = step / max(self.warmup_steps, 1)
        down = keras.ops.minimum((step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1), 1.0)
        if self.kind == "one_cycle":
            up = 1 - _cosine_decay(up)
        fall = {"constant": keras.ops.ones_like(down), "linear": 1 - down}.get(self.kind, _cosine_decay(down))
        return self.peak_lr * keras.ops.where(step < self.warmup_steps, up, fall)

    def get_config(self) -> dict:
        """For Keras, which may serialize an optimizer."""
        return {"kind": self.kind, "peak": self.peak_lr, "total": self.total_steps, "rise": self.warmup_steps}


def _cosine_decay(fraction: keras.KerasTensor) -> keras.KerasTensor:
    return 0.5 * (1 + keras.ops.cos(math.pi * fraction))
