"""Objectives of `--auxiliary_losses`: losses on the features (batch, dim) of samples with and without labels."""

from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import OBJECTIVES
from tfx_finetune.types.training import UNKNOWN_ID, AuxiliaryLoss, Objective, ObjectiveContext

_GAMMA = 10.0  # steepness of the gradient reversal schedule


@OBJECTIVES.register
def align(
    weight: float = 1.0,
    temperature: float = 0.1,
    column: str = "language",
    propagate_labels: bool = True,
    num_positives: int = 4,
) -> Objective:
    """Pull the features of samples of the same group in different languages together.

    Contrastive loss InfoNCE (van den Oord et al., arXiv 1807.03748, equation 4). Positives of each training sample,
    with or without labels, are added to the batch.

    Args:
        weight: float > 0. Weight of the loss; the supervised loss has weight 1. Default 1.
        temperature: float > 0. Divides the cosine similarities. Default 0.1.
        column: Name of the domain column. Positives share a group and differ in this column. Default `language`.
        propagate_labels: True to train positives with the label of their anchor; all positives of a sample together
            weigh as much as the sample. Default True.
        num_positives: int >= 1. Number of positives per training sample, sampled anew in every epoch. Default 4.
    """
    _check_weight("align", weight)
    if not (temperature > 0 and num_positives > 0):
        got = f"temperature={temperature}, num_positives={num_positives}"
        raise UserError("Option of align() is out of range", got=got, expected="above 0")

    def make_loss(context: ObjectiveContext) -> AuxiliaryLoss:
        return AuxiliaryLoss(context.features, InfoNCE(temperature), weight)

    return Objective(
        column, make_loss, needs_positives=True, propagate_labels=propagate_labels, num_positives=num_positives
    )


class InfoNCE(keras.losses.Loss):
    """InfoNCE loss over a batch; a sample with several positives has the mean of their losses.

    Args:
        temperature: float > 0. Divides the cosine similarities.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__(name="info_nce", reduction="mean")
        self.temperature = temperature

    def call(self, ids: Any, features: Any) -> Any:
        """Return the loss of each sample, (batch,); 0 if the sample has no positive.

        Args:
            ids: float tensor (batch, 2). Group ID and domain ID.
            features: float tensor (batch, dim).
        """
        ops = keras.ops
        group, domain = ids[:, 0], ids[:, 1]
        same_group = ops.logical_and(group[:, None] == group[None], group[:, None] != UNKNOWN_ID)
        is_positive = ops.logical_and(same_group, domain[:, None] != domain[None])
        # The sample itself and other samples of its group and domain are neither positives nor negatives.
        is_candidate = ops.logical_or(is_positive, ops.logical_not(same_group))
        is_candidate = ops.logical_and(is_candidate, ops.logical_not(ops.eye(ops.shape(group)[0], dtype="bool")))
        unit = features * ops.rsqrt(ops.sum(ops.square(features), axis=-1, keepdims=True) + 1e-12)
        cosines = ops.where(is_candidate, ops.matmul(unit, ops.transpose(unit)) / self.temperature, -1e9)
        is_positive = ops.cast(is_positive, features.dtype)
        count = ops.sum(is_positive, axis=-1)
        losses = -ops.sum(is_positive * ops.log_softmax(cosines, axis=-1), axis=-1) / ops.maximum(count, 1)
        return _scale_to_masked_mean(losses, count > 0)


@OBJECTIVES.register
def coral(weight: float = 1.0, column: str = "source") -> Objective:
    """Minimize the distance between the feature covariances of two domains, averaged over pairs of domains.

    Deep CORAL (Sun and Saenko, arXiv 1607.01719, equation 1). Domains with fewer than two samples in a batch are
    ignored.

    Args:
        weight: float > 0. Weight of the loss; the supervised loss has weight 1. The loss is divided by 4 dim^2, so
            that large weights may be useful. Default 1.
        column: Name of the domain column. Default `source`.
    """
    _check_weight("coral", weight)
    return Objective(column, lambda context: AuxiliaryLoss(context.features, CORALLoss(context.num_domains), weight))


class CORALLoss(keras.losses.Loss):
    """CORAL loss between all pairs of domains of a batch.

    Args:
        num_domains: int >= 2. Number of domains in the data.
    """

    def __init__(self, num_domains: int) -> None:
        super().__init__(name="coral", reduction="mean")
        self.num_domains = num_domains

    def call(self, ids: Any, features: Any) -> Any:
        """Return the loss of the batch, repeated for each sample, (batch,).

        Args:
            ids: float tensor (batch, 2). Group ID and domain ID.
            features: float tensor (batch, dim).
        """
        ops = keras.ops
        dim = features.shape[-1]
        one_hot = ops.one_hot(ops.cast(ids[:, 1], "int32"), self.num_domains, dtype=features.dtype)
        count = ops.sum(one_hot, axis=0)
        means = ops.matmul(ops.transpose(one_hot), features) / ops.maximum(count, 1)[:, None]
        centered = features - ops.matmul(one_hot, means)
        covariances = ops.einsum("nk,nd,ne->kde", one_hot, centered, centered)
        covariances = covariances / ops.maximum(count - 1, 1)[:, None, None]
        is_present = ops.cast(count > 1, features.dtype)
        num_present = ops.sum(is_present)
        mean = ops.sum(covariances * is_present[:, None, None], axis=0) / ops.maximum(num_present, 1)
        # Over all pairs of m points, the squared distances sum up to m times the squared distances from their mean.
        spread = ops.sum(is_present * ops.sum(ops.square(covariances - mean), axis=(1, 2)))
        loss = 2 * spread / ops.maximum(num_present - 1, 1) / (4 * dim**2)
        return loss * ops.ones_like(features[:, 0])


@OBJECTIVES.register
def dann(weight: float = 1.0, column: str = "source", hidden_units: int = 100) -> Objective:
    """Train features from which a domain classifier cannot predict the domain, by gradient reversal.

    Domain-adversarial training (Ganin et al., arXiv 1505.07818, equation 18 and section 5.2.2).

    Args:
        weight: float > 0. Weight of the loss; the supervised loss has weight 1. Default 1.
        column: Name of the domain column. Default `source`.
        hidden_units: int >= 1. Units of the hidden layer of the domain classifier. Default 100.
    """
    _check_weight("dann", weight)
    if hidden_units < 1:
        raise UserError("hidden_units of dann() is out of range", got=hidden_units, expected="1 or more")

    def make_loss(context: ObjectiveContext) -> AuxiliaryLoss:
        x = GradientReversal(context.total_steps, name="dann_reversal")(context.features)
        initializers = [keras.initializers.GlorotUniform(context.seed + layer) for layer in range(2)]
        x = keras.layers.Dense(hidden_units, "relu", kernel_initializer=initializers[0], name="dann_hidden")(x)
        classifier = keras.layers.Dense(
            context.num_domains, kernel_initializer=initializers[1], dtype="float32", name="dann_domains"
        )
        return AuxiliaryLoss(classifier(x), DomainLoss(), weight)

    return Objective(column, make_loss)


class GradientReversal(keras.layers.Layer):
    """Layer that is the identity and multiplies the gradient by 1 - 2 / (1 + exp(-10 p)), from 0 to nearly -1.

    p is the fraction of the steps of the phase that are done.

    Args:
        total_steps: int >= 1. Number of training steps of the phase.
        options: Options of `keras.layers.Layer`.
    """

    def __init__(self, total_steps: int, **options: Any) -> None:
        super().__init__(**options)
        self.total_steps = total_steps

    def build(self, shape: tuple) -> None:  # noqa: D102
        # The step is a weight, so that checkpoints contain it.
        self.step = self.add_weight(shape=(), initializer="zeros", trainable=False, name="step")

    def call(self, x: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:  # noqa: D102
        strength = keras.ops.cast(2 / (1 + keras.ops.exp(-_GAMMA * self.step / self.total_steps)) - 1, x.dtype)
        if training:
            self.step.assign_add(1.0)
        return keras.ops.stop_gradient((1 + strength) * x) - strength * x


class DomainLoss(keras.losses.Loss):
    """Cross-entropy of the domain; samples with an unknown domain are ignored."""

    def __init__(self) -> None:
        super().__init__(name="domain", reduction="mean")

    def call(self, ids: Any, logits: Any) -> Any:
        """Return the loss of each sample, (batch,).

        Args:
            ids: float tensor (batch, 2). Group ID and domain ID.
            logits: float tensor (batch, domains).
        """
        ops = keras.ops
        domain = ids[:, 1]
        targets = ops.one_hot(ops.cast(domain, "int32"), logits.shape[-1], dtype=logits.dtype)
        losses = -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)
        return _scale_to_masked_mean(losses, domain != UNKNOWN_ID)


def _scale_to_masked_mean(losses: Any, mask: Any) -> Any:
    """Scale losses (batch,) so that their mean is the mean over the samples of a boolean mask (batch,)."""
    ops = keras.ops
    mask = ops.cast(mask, losses.dtype)
    return losses * mask * ops.cast(ops.size(mask), losses.dtype) / ops.maximum(ops.sum(mask), 1)


def _check_weight(name: str, weight: float) -> None:
    """Raise a `UserError` if the weight of an objective is not positive."""
    if not weight > 0:
        raise UserError(f"weight of {name}() is out of range", got=weight, expected="above 0")
