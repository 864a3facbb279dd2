"""One tower, modulated by the others."""

from collections.abc import Mapping

import keras

from tfx_finetune.models.fusions.towers import normalize_towers, resolve_tower
from tfx_finetune.types.components import FUSIONS, Features, Fusion, FusionOutput


@FUSIONS.register
def film(main: str = "") -> Fusion:
    """One tower's features, scaled and shifted by what the others see (Perez et al., FiLM, arXiv 1709.07871).

    Scale and shift begin at nothing, so training starts from the main tower alone.

    Args:
        main: The tower that is modulated; by default the first.
    """

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> FusionOutput:
        parts = normalize_towers(towers, presence)
        first = resolve_tower(main, towers, "main")
        x = parts.pop(first)
        others = list(parts.values())
        given = keras.layers.Concatenate(name="side_by_side")(others) if len(others) > 1 else others[0]
        scale, shift = (
            keras.layers.Dense(x.shape[-1], kernel_initializer="zeros", name=name)(given) for name in ("scale", "shift")
        )
        return FusionOutput((Features(x * (1 + scale) + shift),))

    return Fusion(fuse)
