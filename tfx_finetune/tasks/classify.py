"""Classification task: each sample has exactly one class."""

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.tasks.classification_metrics import compute_classification_metrics
from tfx_finetune.tasks.head import ClassWeights, Init, check_options, compute_class_weights, make_classification_head
from tfx_finetune.types.components import TASKS
from tfx_finetune.types.task import ClassLabels, Task


@TASKS.register
def classify(
    labels: ClassLabels,
    /,
    *,
    column: str = "label",
    label_smoothing: float = 0.1,
    focal: float = 0.0,
    class_weight: ClassWeights = "none",
    logit_adjust: float = 0.0,
    dropout: float = 0.2,
    hidden_units: int = 0,
    init: Init = "zeros",
    heads_by: str = "",
    l2_to_shared: float = 0.01,
    adapter_dim: int = 0,
) -> Task:
    """Single-label classification with softmax and cross-entropy.

    Args:
        labels: Classes with their training counts.
        column: Column of the sample with the class name. Default `label`.
        label_smoothing: float, 0 to below 1. Fraction of the target that is spread over all classes (Szegedy et al.,
            arXiv 1512.00567). Default 0.1.
        focal: float >= 0. Gamma of the focal loss (Lin et al., arXiv 1708.02002). Default 0: plain cross-entropy.
        class_weight: `none` or `balanced`, which weights samples inversely to the frequency of their class.
        logit_adjust: float >= 0. Strength of logit adjustment for rare classes: the log of the class frequencies is
            added to the logits in the loss (Menon et al., arXiv 2007.07314, equation 10, which uses 1). Default 0.
        dropout: float, 0 to below 1. Dropout rate of the features and of the hidden layer. Default 0.2.
        hidden_units: int >= 0. Units of a hidden layer between features and classes; 0 for none. Default 0.
        init: Initializer of the head's kernel: `zeros`, `glorot`, `he`, or `prior`, which is zeros with the class
            frequencies as the bias (arXiv 1708.02002, section 3.3). Default `zeros`.
        heads_by: Set by `--heads_by`, not by users: the column with one head per value. Each head is named after its
            value; the head `shared` is for all samples, and the head with the name of the column predicts the value.
        l2_to_shared: float >= 0. With `--heads_by`: L2 penalty of what each head adds to the logits of the shared head,
            so that a language with few samples borrows from the others (partial pooling: Gelman and Hill, Data Analysis
            Using Regression and Multilevel Models, 2007, chapter 12). 0: independent heads, each with its own classes.
            Default 0.01.
        adapter_dim: int >= 0. With `--heads_by`: width of a residual bottleneck before each of those heads (Houlsby et
            al., arXiv 1902.00751), initially the identity; 0 for none. Default 0.
    """
    check_options("classify", label_smoothing=label_smoothing, focal=focal, dropout=dropout, hidden_units=hidden_units)
    if min(logit_adjust, l2_to_shared, adapter_dim) < 0:
        got = f"logit_adjust={logit_adjust}, l2_to_shared={l2_to_shared}, adapter_dim={adapter_dim}"
        raise UserError("Options of classify() are out of range", got=got, expected="0 or more")
    weights = compute_class_weights(labels, class_weight)
    names = tf.constant(labels.names)
    log_frequencies = np.log(np.maximum(np.asarray(labels.counts, np.float32), 0.5) / max(labels.num_samples, 1))
    reduction = "mean_with_sample_weight"
    if focal:
        loss = keras.losses.CategoricalFocalCrossentropy(
            alpha=1.0, gamma=focal, from_logits=True, label_smoothing=label_smoothing, reduction=reduction
        )
    else:
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing, reduction=reduction
        )
    if logit_adjust:
        loss = _adjust_logits(loss, logit_adjust * log_frequencies)
    return Task(
        labels=labels,
        column=column,
        single_label=True,
        encode=lambda name: tf.cast(names == name, tf.float32),
        weight=lambda target: tf.gather(weights, tf.argmax(target)),
        head=make_classification_head(
            dropout,
            hidden_units,
            init,
            log_frequencies,
            l2_to_shared if heads_by else 0.0,
            adapter_dim if heads_by else 0,
        ),
        loss=loss,
        make_metrics=lambda: [keras.metrics.CategoricalAccuracy(name="accuracy")],
        monitor="accuracy",
        decode=lambda outputs: {"scores": keras.ops.softmax(outputs["logits"])},
        compute_metrics=lambda targets, scores, full_report=True: compute_classification_metrics(
            labels.names, targets.argmax(-1), scores
        ),
        per_sample_score=lambda targets, scores: (targets.argmax(-1) == scores.argmax(-1)).astype(np.float64),
        format_prediction=lambda scores: {
            "label": labels.names[int(scores.argmax())],
            "score": float(scores.max()),
            "scores": dict(zip(labels.names, map(float, scores), strict=True)),
        },
        heads_by=heads_by,
        l2_to_shared=l2_to_shared if heads_by else 0.0,
    )


def _adjust_logits(loss: keras.losses.Loss, offset: np.ndarray) -> keras.losses.Loss:
    """Return a loss that adds the offset (classes,) to the logits."""
    call = loss.call
    loss.call = lambda target, logits: call(target, logits + offset)
    return loss
