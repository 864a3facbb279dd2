"""STATION: towers -> heads -> one flat functional keras.Model, and where a phase cuts it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.models import split, warm_start
from tfx_finetune.models.backbones.graph import add_prefix, insert_layers
from tfx_finetune.models.freezing import count_unfrozen_groups, count_unfrozen_groups_per_tower, parse_unfreeze
from tfx_finetune.models.mean_centering import add_centering, list_centering_layers
from tfx_finetune.models.network import PROJECTIONS, Network
from tfx_finetune.models.warm_start import InitBundle
from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.tasks import localization
from tfx_finetune.types.components import (
    ADAPTERS,
    BACKBONES,
    MODALITY_MASK,
    SHARED,
    Backbone,
    Features,
    FusionOutput,
    Task,
)
from tfx_finetune.types.plan import Architecture


def build_towers(architecture: Architecture, init_bundle: InitBundle | None = None) -> dict[str, Backbone]:
    """Builds the backbones with their pretrained weights; of several, the layers bear their tower's name."""
    towers = {
        tower: warm_start.with_origin(init_bundle, tower, BACKBONES.build(spec))
        for tower, spec in architecture.towers.items()
    }
    if len(towers) == 1:
        return towers
    return {tower: add_prefix(backbone, tower) for tower, backbone in towers.items()}


def build_model(architecture: Architecture, backbones: Mapping[str, Backbone], tasks: Mapping[str, Task]) -> Network:
    """Puts the heads on the towers, and into these what the phases' adapters add to their graphs."""
    backbones = {
        tower: insert_layers(backbone, behind)
        if (behind := _collect_adapters(architecture, tower, backbone))
        else backbone
        for tower, backbone in backbones.items()
    }
    inputs = {tower: backbone.inputs for tower, backbone in backbones.items()}
    if architecture.fusion:
        inputs[MODALITY_MASK] = keras.Input((len(backbones),), name=MODALITY_MASK)
        given = {
            tower: _make_tower_features(backbone, architecture.fusion.needs_tokens)
            for tower, backbone in backbones.items()
        }
        fused = architecture.fusion.fuse(add_centering(backbones, given), inputs[MODALITY_MASK])
    else:
        given = {tower: backbone.features for tower, backbone in backbones.items()}
        fused = FusionOutput(tuple(add_centering(backbones, given).values()))
    for backbone in backbones.values():
        localization.check_input_size(backbone, tasks)
    answers = {head: _apply_head(task, fused) for head, task in tasks.items()}
    for head, task in tasks.items():
        if task.l2_to_shared:  # what a language adds to what holds for all
            answers[head] = {
                name: keras.layers.Add()([answers[SHARED][name], own]) for name, own in answers[head].items()
            }
    outputs = {f"{head}/{name}": tensor for head, answer in answers.items() for name, tensor in answer.items()}
    if fused.projections is not None:
        outputs[PROJECTIONS] = fused.projections
    shares = None if fused.gate_weights is None else build_submodel(inputs, fused.gate_weights, "shares")
    network = Network(build_submodel(inputs, outputs), backbones, tasks, architecture, shares, fused.features)
    set_stochastic_depth(network, 0.0)
    return network


def _make_tower_features(backbone: Backbone, with_tokens: bool) -> Features:
    """What a tower gives to a fusion; places of a picture are its tokens."""
    features = backbone.features
    if not with_tokens or features.tokens is not None:
        return features
    output = backbone.groups[-1].output
    flat = keras.layers.Reshape((-1, output.shape[-1]))(output) if len(output.shape) > 2 else output[:, None]
    return features._replace(tokens=flat)


def _apply_head(task: Task, fusion_output: FusionOutput) -> dict[str, Any]:
    """A head's outputs, of several features the mean by their shares."""
    each = [task.head(features) for features in fusion_output.features]
    if len(each) == 1 or fusion_output.gate_weights is None:
        return each[0]
    weights = [fusion_output.gate_weights[:, at : at + 1] for at in range(len(each))]
    return {
        name: keras.layers.Add()([found[name] * weight for found, weight in zip(each, weights, strict=True)])
        for name in each[0]
    }


def _collect_adapters(architecture: Architecture, tower: str, backbone: Backbone) -> dict[str, Callable[[Any], Any]]:
    """What the phases' adapters want behind each group that they unfreeze, by the group's name."""
    found: dict[str, Callable[[Any], Any]] = {}
    for phase in architecture.phases.values():
        insert = phase.adapter and ADAPTERS.build(parse_spec(phase.adapter)).insert
        if insert:
            count = count_unfrozen_groups(
                backbone, parse_unfreeze("unfreeze", phase.unfreeze, architecture.towers)[tower]
            )
            names = [group.name for group in backbone.groups[len(backbone.groups) - count :]]
            found |= {name: functools.partial(insert, name) for name in names}
    return found


def split_model(
    network: Network, unfreeze: str, extra_outputs: Mapping[str, Any] | None = None
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
    wanted = count_unfrozen_groups_per_tower(network.backbones, unfreeze)
    trained = {name for tower, height, group in network.groups if height <= wanted[tower] for name in group.layers}
    frozen = {name for tower, height, group in network.groups if height > wanted[tower] for name in group.layers}
    frozen |= (
        (_list_first_group_layers(network) - trained)
        | network.frozen_layers
        | set(list_centering_layers(network.backbones).values())
    )
    pretrained = {
        name
        for tower, _, group in network.groups
        if network.backbones[tower].pretrained_cfg.origin
        for name in group.layers
    }
    for layer in network.model.layers:
        normalization = isinstance(layer, keras.layers.BatchNormalization) and layer.name in pretrained
        trainable = layer.name not in frozen and not (normalization and layer.name in trained)
        # TensorFlow skips the assignment of a value that is there already, and with it the layer's single weights,
        # which an adapter may have set apart.
        layer.trainable = not trainable
        layer.trainable = trainable
    found = find_cut_tensors_by_tower(network, unfreeze)
    outputs = network.model.output | (extra_outputs or {})
    if not found:
        return {}, build_submodel(network.model.input, outputs, "top") if extra_outputs else network.model
    trunks = {tower: split.build_trunk(network.backbones[tower].inputs, joint) for tower, joint in found.items()}
    return trunks, split.build_trainable_part(network.model.input, found, outputs)


def find_cut_tensors_by_tower(network: Network, unfreeze: str) -> dict[str, split.CutTensors]:
    """Where each tower is cut that is not trained as a whole."""
    return _find_cut_tensors_by_tower(network, count_unfrozen_groups_per_tower(network.backbones, unfreeze))


def collect_tower_outputs(network: Network) -> dict[str, keras.KerasTensor]:
    """What each tower gives to what stands on it, where that is one tensor, whether it is trained or not."""
    found = _find_cut_tensors_by_tower(network, dict.fromkeys(network.backbones, 0))
    return {tower: joint[0] for tower, joint in found.items() if len(joint) == 1}


def _find_cut_tensors_by_tower(network: Network, group_counts: Mapping[str, int]) -> dict[str, split.CutTensors]:
    tokens = network.fusion is not None and network.fusion.needs_tokens
    levels, pooled = (
        localization.list_pyramid_levels(network.tasks),
        any(not task.localization for task in network.tasks.values()),
    )
    return {
        tower: found
        for tower, backbone in network.backbones.items()
        if (found := split.find_cut_tensors(backbone, group_counts[tower], tokens, levels, pooled))
    }


def _list_first_group_layers(network: Network) -> set[str]:
    """Layers up to the end of each tower's first group: those of no group, such as a Fourier transform, never learn."""
    return {
        layer.name
        for backbone in network.backbones.values()
        for layer in keras.Model(backbone.inputs, backbone.groups[0].output).layers
    }


def to_float32(network: Network) -> Network:
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
                backbone,
                pretrained_cfg=network.backbones[tower].pretrained_cfg,
                from_scratch=network.backbones[tower].from_scratch,
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


def set_stochastic_depth(network: Network, rate: float) -> None:
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
    if rate and not drops:
        allowed = "efficientnet_lite, efficientnet_b and efficientnet_v2 have them"
        raise UserError(
            "the tower has no blocks that can be left out", got=f"stochastic_depth={rate}", expected=allowed
        )
    for position, layer in enumerate(drops, 1):
        layer.rate = rate * position / len(drops)


def list_unfrozen_layers(network: Network, unfreeze: str) -> list[keras.Layer]:
    """The towers' layers that an `unfreeze` option means."""
    wanted = count_unfrozen_groups_per_tower(network.backbones, unfreeze)
    names = {name for tower, height, group in network.groups if height <= wanted[tower] for name in group.layers}
    return [layer for layer in network.model.layers if layer.name in names]


def compute_lr_multipliers(
    network: Network, trainable_part: keras.Model, layer_decay: float, tower_multipliers: Mapping[str, float]
) -> list[float]:
    """Factor of the learning rate for each trained weight: 1 for heads, `decay` for top groups, its square below.

    Layer-wise decay as in ELECTRA (arXiv 2003.10555, appendix) and BEiT (arXiv 2106.08254). Weights of a tower, and of
    what a fusion has for it alone, have its factor of `towers` too.
    """
    height = {name: height for _, height, group in network.groups for name in group.layers}
    factor = {
        id(weight): layer_decay ** height.get(layer.name, 0)
        for layer in network.model.layers
        for weight in layer.weights
    }
    each = zip(trainable_part.trainable_weights, towers_of_weights(network, trainable_part), strict=True)
    # What an objective learns with is no part of the network.
    return [factor.get(id(weight), 1.0) * tower_multipliers.get(owner, 1.0) for weight, owner in each]


def towers_of_weights(network: Network, trainable_part: keras.Model) -> list[str]:
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
    return [found.get(id(weight), "") for weight in trainable_part.trainable_weights]
