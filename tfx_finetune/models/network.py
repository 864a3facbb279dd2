"""The model that is trained, with its parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import keras

from tfx_finetune.types.components import Backbone, Features, Fusion, LayerGroup, Task
from tfx_finetune.types.plan import Architecture

PROJECTIONS = "fusion/views"
"""Output of a model whose towers are pulled together in training: see `Fused.views`."""


@dataclass(frozen=True)
class Network:
    """The model that is trained, with the parts that it was made of.

    Attributes:
        model: {tower: prepared input} -> {"<head>/logits": ...}.
        backbones: The pretrained parts, by tower.
        tasks: Heads by name.
        architecture: Specs of the layers below the heads, from which the model can be built again.
        shares: The model's inputs -> how much each tower counts, (batch, towers); None where that cannot be told.
        seen: What the heads see.
        held: Layers that no phase trains.
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
        """The fusion of several towers; None for one tower."""
        return self.architecture.fusion

    @property
    def groups(self) -> list[tuple[str, int, LayerGroup]]:
        """Every group of every tower: (tower, its height: 1 for the top one, group)."""
        return [
            (tower, len(backbone.groups) - position, group)
            for tower, backbone in self.backbones.items()
            for position, group in enumerate(backbone.groups)
        ]
