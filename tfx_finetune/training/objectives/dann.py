"""Features that do not tell which language or source a sample is of."""

from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.training.objectives.rows import check_weight, scale_to_masked_mean
from tfx_finetune.types.components import OBJECTIVES
from tfx_finetune.types.training import UNKNOWN_ID, AuxiliaryLoss, Objective, ObjectiveContext

_GAMMA = 10.0


@OBJECTIVES.register
def dann(weight: float = 1.0, column: str = "source", hidden_units: int = 100) -> Objective:
    """A small network learns to tell the domains apart by what heads read, whose gradient is reversed (Ganin et al.,
    Domain-adversarial training of neural networks, arXiv 1505.07818, equation 18 and section 5.2.2).

    Args:
        weight: Of the loss, beside that of the labels, above 0.
        column: Whose values are the domains.
        hidden: Numbers in the layer of that network, 1 or more.
    """
    check_weight("dann", weight)
    if hidden_units < 1:
        raise UserError("hidden of dann is out of range", got=hidden_units, expected="1 or more")

    def term(seen: ObjectiveContext) -> AuxiliaryLoss:
        x = GradientReversal(seen.total_steps, name="dann_reversal")(seen.features)
        begin = [keras.initializers.GlorotUniform(seen.seed + part) for part in range(2)]
        x = keras.layers.Dense(hidden_units, "relu", kernel_initializer=begin[0], name="dann_hidden")(x)
        domains = keras.layers.Dense(
            seen.num_domains, kernel_initializer=begin[1], dtype="float32", name="dann_domains"
        )
        return AuxiliaryLoss(domains(x), DomainLoss(), weight)

    return Objective(column, term)


class GradientReversal(keras.layers.Layer):
    """The identity, whose gradient is the given one times 1 - 2 / (1 + exp(-10 p)), p being the share of the steps
    that are done: from 0 to nearly -1.

    Args:
        steps: Of the phase.
    """

    def __init__(self, total_steps: int, **options: Any) -> None:
        super().__init__(**options)
        self.total_steps = total_steps

    def build(self, shape: tuple) -> None:  # noqa: D102
        # A weight, so that a phase that is resumed goes on with it.
        self.step = self.add_weight(shape=(), initializer="zeros", trainable=False, name="done")

    def call(self, x: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:  # noqa: D102
        strength = keras.ops.cast(2 / (1 + keras.ops.exp(-_GAMMA * self.step / self.total_steps)) - 1, x.dtype)
        if training:
            self.step.assign_add(1.0)
        return keras.ops.stop_gradient((1 + strength) * x) - strength * x


class DomainLoss(keras.losses.Loss):
    """Cross-entropy of the domain; a sample of none does not count."""

    def __init__(self) -> None:
        super().__init__(name="domains", reduction="mean")

    def call(self, ids: Any, logits: Any) -> Any:
        """Returns the loss of each sample, (batch,).

        Args:
            marks: Group and domain, (batch, 2).
            logits: Of the domains, (batch, domains).
        """
        ops = keras.ops
        domain = ids[:, 1]
        targets = ops.one_hot(ops.cast(domain, "int32"), logits.shape[-1], dtype=logits.dtype)
        losses = -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)
        return scale_to_masked_mean(losses, domain != UNKNOWN_ID)
