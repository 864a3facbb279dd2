"""A small text network without pretrained weights: the mean of the embeddings of hashed character n-grams."""

from typing import Any

import keras
from keras import ops

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import BACKBONES, Backbone, Features, LayerGroup, PretrainedCfg

# The largest prime below 2^16; times a factor below 2^14 it stays within 32 bits.
_PRIME, _FACTOR = 65_521, 12_289


@BACKBONES.register_for("text")
def bag_of_embeddings(
    size: int = 256, dim: int = 64, buckets: int = 16_384, ngrams: int = 4, lower: bool = True
) -> Backbone:
    """Embeddings of all character n-grams, averaged, as fastText does (Joulin et al., arXiv 1607.01759).

    It knows no words, so it takes any language and spelling; it is trained from scratch. Of whole numbers, lookups
    and means alone, it fits a TFLite file of 8 bits, of about `buckets` times `dim` bytes.

    Args:
        size: Characters of a text that are read, 1 or more.
        dim: Numbers an embedding, 1 or more.
        buckets: Embeddings; n-grams whose hash is the same share one. 2 to 65,521.
        ngrams: n-grams of 1 to so many characters, 1 or more.
        lower: Whether capitals become small letters first.
    """
    if min(size, dim, ngrams) < 1 or not 2 <= buckets <= _PRIME:
        received = f"size={size}, dim={dim}, buckets={buckets}, ngrams={ngrams}"
        allowed = f"1 or more, and 2 to {_PRIME} buckets"
        raise UserError("bag_of_embeddings is out of range", got=received, expected=allowed)
    card = PretrainedCfg(size=size, tokenizer=f"code_points(lower={lower})")
    inputs = keras.Input((size,), dtype="int32", name="text")
    numbers = NGrams(ngrams, buckets, name="ngrams")(inputs)
    embedded = keras.layers.Embedding(buckets, dim, name="embedding")(numbers)
    tokens = Mean(2, name="mean_of_ngrams")(embedded)
    pooled = Mean(1, name="pooled")(tokens)
    layers = ("ngrams", "embedding", "mean_of_ngrams", "pooled")
    return Backbone("text", card, inputs, Features(pooled, tokens=tokens), (LayerGroup("pooled", layers, pooled),))


@keras.saving.register_keras_serializable("tfx_finetune")
class NGrams(keras.layers.Layer):
    """Characters (batch, size) -> buckets of the n-grams that begin at each, int32 (batch, size, ngrams).

    A text that is shorter is repeated, a blank place between, until it fills the size. So no place is empty, and a
    plain mean is the text's, which 8 bits hold as well as that of a long one; a division by the length they do not.

    Args:
        ngrams: n-grams of 1 to so many characters.
        buckets: Results are below it.
    """

    def __init__(self, ngrams: int, buckets: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ngrams, self.buckets = ngrams, buckets
        self.trainable = False

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        size, reach = inputs.shape[1], inputs.shape[1] + self.ngrams - 1
        inputs = ops.cast(inputs, "int32")
        length = ops.sum(ops.cast(inputs != 0, "int32"), axis=1, keepdims=True) + 1
        places = ops.mod(ops.expand_dims(ops.arange(reach, dtype="int32"), 0), length)
        filled = ops.take_along_axis(ops.pad(inputs, [[0, 0], [0, 1]]), places, axis=1)
        found = []
        hashed = ops.zeros_like(filled[:, :size])
        for n in range(self.ngrams):
            hashed = ops.mod(hashed * _FACTOR + filled[:, n : n + size] + 1, _PRIME)
            found.append(ops.mod(hashed, self.buckets))
        return ops.stack(found, axis=-1)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return keras.KerasTensor((*inputs.shape, self.ngrams), dtype="int32")

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return super().get_config() | {"ngrams": self.ngrams, "buckets": self.buckets}


@keras.saving.register_keras_serializable("tfx_finetune")
class Mean(keras.layers.Layer):
    """The mean over an axis."""

    def __init__(self, axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return ops.mean(inputs, axis=self.axis)

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return super().get_config() | {"axis": self.axis}
