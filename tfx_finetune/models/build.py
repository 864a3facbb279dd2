"""STATION: towers -> heads -> one flat functional keras.Model, and where a phase cuts it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.models import split, warm_start
from tfx_finetune.models.backbones.graph import inserted, renamed
from tfx_finetune.models.freezing import counts, groups_wanted, unfrozen
from tfx_finetune.models.mean_centering import centred, centres
from tfx_finetune.models.network import VIEWS, Network
from tfx_finetune.models.warm_start import Start
from tfx_finetune.ops.functional import joined
from tfx_finetune.tasks import localization
from tfx_finetune.types.components import (
    ADAPTERS,
    BACKBONES,
    PRESENCE,
    SHARED,
    Backbone,
    Features,
    Fused,
    Task,
)
from tfx_finetune.types.plan import Architecture


def build_towers(architecture: Architecture, init: Start | None = None) -> dict[str, Backbone]:
    """Builds the backbones with their pretrained weights; of several, the layers bear their tower's name."""
    towers = {
        tower: warm_start.marked(init, tower, BACKBONES.build(spec)) for tower, spec in architecture.towers.items()
    }
    if len(towers) == 1:
        return towers
    return {tower: renamed(backbone, tower) for tower, backbone in towers.items()}


def build_model(architecture: Architecture, backbones: Mapping[str, Backbone], tasks: Mapping[str, Task]) -> Network:
    """Puts the heads on the towers, and into these what the phases' adapters add to their graphs."""
    backbones = {
        tower: inserted(backbone, behind) if (behind := _insertions(architecture, tower, backbone)) else backbone
        for tower, backbone in backbones.items()
    }
    inputs = {tower: backbone.inputs for tower, backbone in backbones.items()}
    if architecture.fusion:
        inputs[PRESENCE] = keras.Input((len(backbones),), name=PRESENCE)
        given = {tower: _given(backbone, architecture.fusion.tokens) for tower, backbone in backbones.items()}
        fused = architecture.fusion.fuse(centred(backbones, given), inputs[PRESENCE])
    else:
        given = {tower: backbone.features for tower, backbone in backbones.items()}
        fused = Fused(tuple(centred(backbones, given).values()))
    for backbone in backbones.values():
        localization.check_side(backbone, tasks)
    answers = {head: _answer(task, fused) for head, task in tasks.items()}
    for head, task in tasks.items():
        if task.pool:  # what a language adds to what holds for all
            answers[head] = {
                name: keras.layers.Add()([answers[SHARED][name], own]) for name, own in answers[head].items()
            }
    outputs = {f"{head}/{name}": tensor for head, answer in answers.items() for name, tensor in answer.items()}
    if fused.views is not None:
        outputs[VIEWS] = fused.views
    shares = None if fused.shares is None else joined(inputs, fused.shares, "shares")
    network = Network(joined(inputs, outputs), backbones, tasks, architecture, shares, fused.features)
    set_stochastic_depth(network, 0.0)
    return network


def _given(backbone: Backbone, tokens: bool) -> Features:
    """What a tower gives to a fusion; places of a picture are its tokens."""
    features = backbone.features
    if not tokens or features.tokens is not None:
        return features
    output = backbone.groups[-1].output
    flat = keras.layers.Reshape((-1, output.shape[-1]))(output) if len(output.shape) > 2 else output[:, None]
    return features._replace(tokens=flat)


def _answer(task: Task, fused: Fused) -> dict[str, Any]:
    """A head's outputs, of several features the mean by their shares."""
    each = [task.head(features) for features in fused.features]
    if len(each) == 1 or fused.shares is None:
        return each[0]
    weights = [fused.shares[:, at : at + 1] for at in range(len(each))]
    return {
        name: keras.layers.Add()([found[name] * weight for found, weight in zip(each, weights, strict=True)])
        for name in each[0]
    }


def _insertions(architecture: Architecture, tower: str, backbone: Backbone) -> dict[str, Callable[[Any], Any]]:
    """What the phases' adapters want behind each group that they unfreeze, by the group's name."""
    found: dict[str, Callable[[Any], Any]] = {}
    for phase in architecture.phases.values():
        insert = phase.adapter and ADAPTERS.build(parse_spec(phase.adapter)).insert
        if insert:
            count = unfrozen(backbone, groups_wanted("unfreeze", phase.unfreeze, architecture.towers)[tower])
            names = [group.name for group in backbone.groups[len(backbone.groups) - count :]]
            found |= {name: functools.partial(insert, name) for name in names}
    return found


def cut(
    network: Network, unfreeze: str, more: Mapping[str, Any] | None = None
) -> tuple[dict[str, keras.Model], keras.Model]:
    """Cuts the model into what a phase leaves as it is and what it trains, and sets what is trainable.

    BatchNormalization of the pretrained tower stays frozen wherever the cut is: its statistics come from far more
    data than a fine-tuning set, and a frozen one runs in inference mode (Keras transfer-learning guide). A tower
    that was initialized at random has nothing to keep, so all of it is trained.

    Args:
        network: The whole model.
        unfreeze: How many groups of each tower are trained, from the top: a number, a share of them, or `all`; or one
            of these for each tower, such as `image=5, text=all`.
        more: Further outputs of the top by name, of the network's own tensors.

    Returns:
        The trunk of each tower that is not trained as a whole, and the top, {tower: its trunk's output, or its input}
        -> outputs. They share their layers with the whole model.
    """
    wanted = counts(network.backbones, unfreeze)
    trained = {name for tower, height, group in network.groups if height <= wanted[tower] for name in group.layers}
    frozen = {name for tower, height, group in network.groups if height > wanted[tower] for name in group.layers}
    frozen |= (_below(network) - trained) | network.held | set(centres(network.backbones).values())
    pretrained = {
        name for tower, _, group in network.groups if network.backbones[tower].card.origin for name in group.layers
    }
    for layer in network.model.layers:
        normalization = isinstance(layer, keras.layers.BatchNormalization) and layer.name in pretrained
        trainable = layer.name not in frozen and not (normalization and layer.name in trained)
        # TensorFlow skips the assignment of a value that is there already, and with it the layer's single weights,
        # which an adapter may have set apart.
        layer.trainable = not trainable
        layer.trainable = trainable
    found = joints_of(network, unfreeze)
    outputs = network.model.output | (more or {})
    if not found:
        return {}, joined(network.model.input, outputs, "top") if more else network.model
    trunks = {tower: split.trunk(network.backbones[tower].inputs, joint) for tower, joint in found.items()}
    return trunks, split.top(network.model.input, found, outputs)


def joints_of(network: Network, unfreeze: str) -> dict[str, split.Joint]:
    """Where each tower is cut that is not trained as a whole."""
    return _joints(network, counts(network.backbones, unfreeze))


def ends(network: Network) -> dict[str, keras.KerasTensor]:
    """What each tower gives to what stands on it, where that is one tensor, whether it is trained or not."""
    found = _joints(network, dict.fromkeys(network.backbones, 0))
    return {tower: joint[0] for tower, joint in found.items() if len(joint) == 1}


def _joints(network: Network, trained: Mapping[str, int]) -> dict[str, split.Joint]:
    tokens = network.fusion is not None and network.fusion.tokens
    levels, pooled = localization.levels(network.tasks), any(not task.places for task in network.tasks.values())
    return {
        tower: found
        for tower, backbone in network.backbones.items()
        if (found := split.joint(backbone, trained[tower], tokens, levels, pooled))
    }


def _below(network: Network) -> set[str]:
    """Layers up to the end of each tower's first group: those of no group, such as a Fourier transform, never learn."""
    return {
        layer.name
        for backbone in network.backbones.values()
        for layer in keras.Model(backbone.inputs, backbone.groups[0].output).layers
    }


def in_float32(network: Network) -> Network:
    """The network, built again with the same weights where it was trained in mixed precision.

    The TFLite converter takes no bfloat16, and a deployed model should not depend on the card it was trained on.
    """
    # Its own, not that of the process: a network that was built again is not built a third time.
    if all(layer.compute_dtype == "float32" for layer in network.model.layers):
        return network
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        # The origin of the weights is the only part of a backbone that its spec does not determine.
        towers = {
            tower: dataclasses.replace(
                backbone, card=network.backbones[tower].card, scratch=network.backbones[tower].scratch
            )
            for tower, backbone in build_towers(network.architecture).items()
        }
        rebuilt = build_model(network.architecture, towers, network.tasks)
    finally:
        keras.config.set_dtype_policy(policy)
    rebuilt.model.set_weights(network.model.get_weights())
    for mine, theirs in zip(rebuilt.model.operations, network.model.operations, strict=True):
        mine.name = theirs.name  # by which the manifest calls it
    return rebuilt


def set_stochastic_depth(network: Network, chance: float) -> None:
    """Lets blocks be left out in training, the last one with this chance, those below with less (Huang et al., Deep
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


def unfrozen_layers(network: Network, unfreeze: str) -> list[keras.Layer]:
    """The towers' layers that an `unfreeze` option means."""
    wanted = counts(network.backbones, unfreeze)
    names = {name for tower, height, group in network.groups if height <= wanted[tower] for name in group.layers}
    return [layer for layer in network.model.layers if layer.name in names]


def rates(network: Network, top: keras.Model, decay: float, towers: Mapping[str, float]) -> list[float]:
    """Factor of the learning rate for each trained weight: 1 for heads, `decay` for top groups, its square below.

    Layer-wise decay as in ELECTRA (arXiv 2003.10555, appendix) and BEiT (arXiv 2106.08254). Weights of a tower, and of
    what a fusion has for it alone, have its factor of `towers` too.
    """
    height = {name: height for _, height, group in network.groups for name in group.layers}
    factor = {
        id(weight): decay ** height.get(layer.name, 0) for layer in network.model.layers for weight in layer.weights
    }
    each = zip(top.trainable_weights, owners(network, top), strict=True)
    # What an objective learns with is no part of the network.
    return [factor.get(id(weight), 1.0) * towers.get(owner, 1.0) for weight, owner in each]


def owners(network: Network, top: keras.Model) -> list[str]:
    """The tower that each trained weight belongs to; empty for what all share."""
    if len(network.backbones) == 1:
        (tower,) = network.backbones
        mine = {name for _, _, group in network.groups for name in group.layers}
        owner = {layer.name: tower if layer.name in mine else "" for layer in network.model.layers}
    else:
        # Of several towers, layers bear the tower's name, also those that a fusion has for it.
        owner = {
            layer.name: next((tower for tower in network.backbones if layer.name.startswith(f"{tower}_")), "")
            for layer in network.model.layers
        }
    found = {id(weight): owner[layer.name] for layer in network.model.layers for weight in layer.weights}
    return [found.get(id(weight), "") for weight in top.trainable_weights]
