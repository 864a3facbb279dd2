"""Construction of the network: backbones, fusion and heads in one flat functional Keras model."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.models import warm_start
from tfx_finetune.models.backbones.graph import add_prefix, insert_layers
from tfx_finetune.models.freezing import count_unfrozen_groups, parse_unfreeze
from tfx_finetune.models.mean_centering import add_centering
from tfx_finetune.models.network import PROJECTIONS, Network
from tfx_finetune.models.warm_start import InitBundle
from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.tasks import localization
from tfx_finetune.types.components import ADAPTERS, BACKBONES, MODALITY_MASK, Backbone, Features, FusionOutput
from tfx_finetune.types.plan import Architecture
from tfx_finetune.types.task import SHARED, Task


def build_towers(architecture: Architecture, init_bundle: InitBundle | None = None) -> dict[str, Backbone]:
    """Build the backbones with their pretrained weights.

    The layer names of several towers start with the name of their tower.

    Args:
        architecture: Specs of the towers.
        init_bundle: Bundle of `--init`, which becomes the origin of the weights of its towers; None without `--init`.

    Raises:
        UserError: If weights cannot be found or read, or an option of a backbone is out of range.
    """
    towers = {
        tower: warm_start.with_origin(init_bundle, tower, BACKBONES.build(spec))
        for tower, spec in architecture.towers.items()
    }
    if len(towers) == 1:
        return towers
    return {tower: add_prefix(backbone, tower) for tower, backbone in towers.items()}


def build_model(architecture: Architecture, backbones: Mapping[str, Backbone], tasks: Mapping[str, Task]) -> Network:
    """Build a network: backbones with the adapters of the phases, fusion, mean-centering and heads.

    Args:
        architecture: Fusion and phases.
        backbones: Backbones by tower; see `build_towers`.
        tasks: Tasks by head.

    Raises:
        UserError: If the input size does not fit a head.
    """
    adapters = {tower: _collect_adapters(architecture, tower, backbone) for tower, backbone in backbones.items()}
    backbones = {
        tower: insert_layers(backbone, adapters[tower]) if adapters[tower] else backbone
        for tower, backbone in backbones.items()
    }
    inputs = {tower: backbone.inputs for tower, backbone in backbones.items()}
    if architecture.fusion:
        inputs[MODALITY_MASK] = keras.Input((len(backbones),), name=MODALITY_MASK)
        features = {
            tower: _add_tokens(backbone) if architecture.fusion.needs_tokens else backbone.features
            for tower, backbone in backbones.items()
        }
        fusion_output = architecture.fusion.fuse(add_centering(backbones, features), inputs[MODALITY_MASK])
    else:
        features = {tower: backbone.features for tower, backbone in backbones.items()}
        fusion_output = FusionOutput(tuple(add_centering(backbones, features).values()))
    for backbone in backbones.values():
        localization.check_input_size(backbone, tasks)
    head_outputs = {head: _apply_head(task, fusion_output) for head, task in tasks.items()}
    for head, task in tasks.items():
        if task.l2_to_shared:  # the head of a group adds an offset to the logits of the shared head
            shared = head_outputs[SHARED]
            head_outputs[head] = {
                name: keras.layers.Add()([shared[name], offset]) for name, offset in head_outputs[head].items()
            }
    outputs = {f"{head}/{name}": tensor for head, tensors in head_outputs.items() for name, tensor in tensors.items()}
    if fusion_output.projections is not None:
        outputs[PROJECTIONS] = fusion_output.projections
    gate_weights = None
    if fusion_output.gate_weights is not None:
        gate_weights = build_submodel(inputs, fusion_output.gate_weights, "gate_weights")
    model = build_submodel(inputs, outputs)
    network = Network(model, backbones, tasks, architecture, gate_weights, fusion_output.features)
    set_stochastic_depth(network, 0.0)
    return network


def to_float32(network: Network) -> Network:
    """Return a network that computes in float32, rebuilt with the same weights if it uses mixed precision.

    The TFLite converter does not support bfloat16, and an exported model should not depend on the training device.
    """
    # The layers decide, not the global policy: a rebuilt network is not rebuilt again.
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
    for operation, original in zip(rebuilt.model.operations, network.model.operations, strict=True):
        operation.name = original.name  # the name in the manifest
    return rebuilt


def set_stochastic_depth(network: Network, rate: float) -> None:
    """Set the drop rates of residual blocks: `rate` for the last block, decreasing linearly to the first.

    Stochastic depth: Huang et al., arXiv 1603.09382, equation 4.

    Args:
        network: The whole model; its dropout layers are changed in place.
        rate: float in [0, 1). Probability that training skips the last residual block of a sample.

    Raises:
        UserError: If `rate` is above 0 and no tower has residual blocks that can be skipped.
    """
    # A dropout layer whose noise has one number per sample skips a whole residual branch.
    layers = [
        layer
        for layer in network.model.layers
        if isinstance(layer, keras.layers.Dropout) and set((layer.noise_shape or (0,))[1:]) == {1}
    ]
    if rate and not layers:
        message = "The backbone does not support stochastic_depth"
        raise UserError(message, got=rate, expected="efficientnet_lite, efficientnet_b or efficientnet_v2")
    for number, layer in enumerate(layers, 1):
        layer.rate = rate * number / len(layers)


def _add_tokens(backbone: Backbone) -> Features:
    """Return the features of a tower with tokens; those of an image are the locations of its last feature map."""
    features = backbone.features
    if features.tokens is not None:
        return features
    output = backbone.groups[-1].output
    is_map = len(output.shape) > 2
    tokens = keras.layers.Reshape((-1, output.shape[-1]))(output) if is_map else output[:, None]
    return features._replace(tokens=tokens)


def _apply_head(task: Task, fusion_output: FusionOutput) -> dict[str, Any]:
    """Apply a head to the fused features; outputs for several features are averaged with the gate weights."""
    outputs = [task.head(features) for features in fusion_output.features]
    if len(outputs) == 1 or fusion_output.gate_weights is None:
        return outputs[0]
    weights = [fusion_output.gate_weights[:, index : index + 1] for index in range(len(outputs))]
    return {
        name: keras.layers.Add()([output[name] * weight for output, weight in zip(outputs, weights, strict=True)])
        for name in outputs[0]
    }


def _collect_adapters(architecture: Architecture, tower: str, backbone: Backbone) -> dict[str, Callable[[Any], Any]]:
    """Return, by layer group, the functions that insert the adapters of the phases that unfreeze the group."""
    inserts: dict[str, Callable[[Any], Any]] = {}
    for phase in architecture.phases.values():
        insert = phase.adapter and ADAPTERS.build(parse_spec(phase.adapter)).insert
        if insert:
            unfreeze = parse_unfreeze("unfreeze", phase.unfreeze, architecture.towers)[tower]
            count = count_unfrozen_groups(backbone, unfreeze)
            names = [group.name for group in backbone.groups[len(backbone.groups) - count :]]
            inserts |= {name: functools.partial(insert, name) for name in names}
    return inserts
