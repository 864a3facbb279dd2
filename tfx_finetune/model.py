"""STATION: tower -> heads -> one flat functional keras.Model, and where a phase cuts it."""

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from tfx_finetune.backbones.graph import inserted
from tfx_finetune.contracts import ADAPTERS, BACKBONES, Backbone, Task
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.plan import Plan


@dataclass(frozen=True)
class Network:
    """The model that is trained, with the parts that it was made of.

    Attributes:
        model: {tower: prepared input} -> {"<head>/logits": ...}.
        tower: The name of its input.
        backbone: The pretrained part.
        tasks: Heads by name.
    """

    model: keras.Model
    tower: str
    backbone: Backbone
    tasks: Mapping[str, Task]


def build_tower(plan: Plan) -> Backbone:
    """Builds the backbone with its pretrained weights."""
    return BACKBONES.build(plan.tower[1])


def build_model(plan: Plan, backbone: Backbone, tasks: Mapping[str, Task]) -> Network:
    """Puts the heads on the tower, and into it what the phases' adapters add to its graph."""
    if behind := _insertions(plan, backbone):
        backbone = inserted(backbone, behind)
    outputs = {
        f"{head}/{name}": tensor
        for head, task in tasks.items()
        for name, tensor in task.head(backbone.features).items()
    }
    tower = plan.tower[0]
    with warnings.catch_warnings():
        # Keras would have the key equal the tensor's name, which is the modality's.
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        model = keras.Model({tower: backbone.inputs}, outputs)
    network = Network(model, tower, backbone, tasks)
    set_stochastic_depth(network, 0.0)
    return network


def _insertions(plan: Plan, backbone: Backbone) -> dict[str, Callable[[Any], Any]]:
    """What the phases' adapters want behind each group that they unfreeze, by the group's name."""
    found: dict[str, Callable[[Any], Any]] = {}
    for phase in plan.phases.values():
        insert = phase.adapter and ADAPTERS.build(parse_spec(phase.adapter)).insert
        if insert:
            count = unfrozen(backbone, phase.unfreeze)
            names = [group.name for group in backbone.groups[len(backbone.groups) - count :]]
            found |= {name: functools.partial(insert, name) for name in names}
    return found


def cut(network: Network, unfreeze: str) -> tuple[keras.Model | None, keras.Model]:
    """Cuts the model into what a phase leaves as it is and what it trains, and sets what is trainable.

    BatchNormalization of the pretrained tower stays frozen wherever the cut is: its statistics come from far more
    data than a fine-tuning set, and a frozen one runs in inference mode (Keras transfer-learning guide). A tower
    that was initialized at random has nothing to keep, so all of it is trained.

    Args:
        network: The whole model.
        unfreeze: How many groups from the top are trained: a number, a share of them, or `all`.

    Returns:
        The trunk (None where everything is trained) and the top. Both share their layers with the whole model.
    """
    groups, pretrained = network.backbone.groups, bool(network.backbone.card.origin)
    count = unfrozen(network.backbone, unfreeze)
    trained = {name for group in groups[len(groups) - count :] for name in group.layers}
    frozen = {name for group in groups for name in group.layers} - trained
    for layer in network.model.layers:
        normalization = isinstance(layer, keras.layers.BatchNormalization) and pretrained
        trainable = layer.name not in frozen and not (normalization and layer.name in trained)
        # TensorFlow skips the assignment of a value that is there already, and with it the layer's single weights,
        # which an adapter may have set apart.
        layer.trainable = not trainable
        layer.trainable = trainable
    if count == len(groups):
        return None, network.model
    features = network.backbone.features
    # A frozen tower is cut behind its pooling, where least is left to keep.
    joint = features.pooled if count == 0 else groups[-count - 1].output
    trunk = keras.Model(network.backbone.inputs, joint, name="trunk")
    return trunk, keras.Model(joint, network.model.output, name="top")


def in_float32(plan: Plan, network: Network) -> Network:
    """The network, built again with the same weights where it was trained in mixed precision.

    The TFLite converter takes no bfloat16, and a deployed model should not depend on the card it was trained on.
    """
    # Its own, not that of the process: a network that was built again is not built a third time.
    if all(layer.compute_dtype == "float32" for layer in network.model.layers):
        return network
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        rebuilt = build_model(plan, build_tower(plan), network.tasks)
    finally:
        keras.config.set_dtype_policy(policy)
    rebuilt.model.set_weights(network.model.get_weights())
    return rebuilt


def set_stochastic_depth(network: Network, chance: float) -> None:
    """Lets blocks be left out in training, the last one with this chance, those below it with less (Huang et al., Deep
    Networks with Stochastic Depth, arXiv 1603.09382, equation 4).

    Raises:
        UserError: The chance is not 0 and the tower has no blocks that can be left out.
    """
    # A dropout whose noise is one number a sample drops a whole branch.
    drops = [
        layer
        for layer in network.model.layers
        if isinstance(layer, keras.layers.Dropout) and set((layer.noise_shape or (0,))[1:]) == {1}
    ]
    if chance and not drops:
        allowed = "efficientnet_lite, efficientnet_b and efficientnet_v2 have them"
        raise UserError(
            "the tower has no blocks that can be left out", received=f"stochastic_depth={chance}", allowed=allowed
        )
    for position, layer in enumerate(drops, 1):
        layer.rate = chance * position / len(drops)


def unfrozen(backbone: Backbone, unfreeze: str) -> int:
    """How many of the backbone's groups, from the top, an `unfreeze` option means."""
    groups = backbone.groups
    if unfreeze == "all" or not backbone.card.origin:
        return len(groups)
    if "." in unfreeze:
        return min(len(groups), math.ceil(float(unfreeze) * len(groups)))
    return min(len(groups), int(unfreeze))


def unfrozen_layers(network: Network, unfreeze: str) -> list[keras.Layer]:
    """The tower's layers that an `unfreeze` option means."""
    groups = network.backbone.groups
    names = {name for group in groups[len(groups) - unfrozen(network.backbone, unfreeze) :] for name in group.layers}
    return [layer for layer in network.model.layers if layer.name in names]


def rates(network: Network, top: keras.Model, decay: float) -> list[float]:
    """Factor of the learning rate for each trained weight: 1 for heads, `decay` for the top group, its square below.

    Layer-wise decay as in ELECTRA (arXiv 2003.10555, appendix) and BEiT (arXiv 2106.08254).
    """
    groups = network.backbone.groups
    height = {name: len(groups) - position for position, group in enumerate(groups) for name in group.layers}
    factor = {
        id(weight): decay ** height.get(layer.name, 0) for layer in network.model.layers for weight in layer.weights
    }
    return [factor[id(weight)] for weight in top.trainable_weights]
