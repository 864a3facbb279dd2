"""BitFit: biases alone (Ben Zaken et al., arXiv 2106.10199)."""

from collections.abc import Sequence

import keras

from tfx_finetune.types.components import ADAPTERS
from tfx_finetune.types.training import Adapter


@ADAPTERS.register
def bitfit() -> Adapter:
    """Trains biases, the offsets of normalization among them, which stand in for those of convolutions."""
    return Adapter(lambda layers: set_trainable_by_name(layers, ("bias", "beta")), lambda layers: None)


def set_trainable_by_name(layers: Sequence[keras.Layer], names: tuple[str, ...]) -> None:
    """Lets weights of these names be trained and no other ones.

    A layer of BatchNormalization that is frozen goes on using what it has learned of the data's mean and variance.
    """
    for layer in layers:
        for weight in layer.weights:
            weight.trainable = weight.name in names
