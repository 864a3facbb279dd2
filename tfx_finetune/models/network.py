"""Record of a trainable network and its parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import keras

from tfx_finetune.types.components import Backbone, Features, Fusion, LayerGroup
from tfx_finetune.types.plan import Architecture
from tfx_finetune.types.task import Task

PROJECTIONS = "fusion/projections"
"""Model output of a fusion with a contrastive loss: `FusionOutput.projections`."""


@dataclass(frozen=True)
class Network:
    """Trainable model with the parts that it was built from.

    Attributes:
        model: Keras model {tower: prepared input} -> {"<head>/logits": ...}. A model of several towers also has the
            input `MODALITY_MASK`.
        backbones: Backbones by tower.
        tasks: Tasks by head.
        architecture: Specs of the layers below the heads, from which the model can be rebuilt.
        gate_weights: Keras model from the same inputs to the gate weights (batch, towers), or None if the fusion has
            none.
        head_inputs: Features that the heads read.
        frozen_layers: Names of layers that no phase trains.
    """

    model: keras.Model
    backbones: Mapping[str, Backbone]
    tasks: Mapping[str, Task]
    architecture: Architecture = field(default_factory=lambda: Architecture({}))
    gate_weights: keras.Model | None = None
    head_inputs: tuple[Features, ...] = ()
    frozen_layers: frozenset[str] = frozenset()

    @property
    def fusion(self) -> Fusion | None:
        """Return the fusion of several towers, or None for one tower."""
        return self.architecture.fusion

    @property
    def groups(self) -> list[tuple[str, int, LayerGroup]]:
        """Return the layer groups of all towers as (tower, height, group); the top group has height 1."""
        return [
            (tower, len(backbone.groups) - index, group)
            for tower, backbone in self.backbones.items()
            for index, group in enumerate(backbone.groups)
        ]
