"""Small text backbone that is trained from scratch: the mean of embeddings of hashed character n-grams."""

from typing import Any

import keras
from keras import ops

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import BACKBONES, Backbone, Features, LayerGroup, PretrainedCfg

# The largest prime below 2^16; its product with a factor below 2^14 fits into 32 bits.
_PRIME, _FACTOR = 65_521, 12_289


@BACKBONES.register_for("text")
def bag_of_embeddings(
    size: int = 256, dim: int = 64, buckets: int = 16_384, ngrams: int = 4, lower: bool = True
) -> Backbone:
    """Average the embeddings of all character n-grams, like fastText (Joulin et al., arXiv 1607.01759).

    The backbone has no vocabulary of words, so it accepts any language and spelling; it is trained from scratch. It
    uses integers, lookups and means only: an int8 TFLite file has about buckets * dim bytes.

    Args:
        size: int >= 1. Maximum number of characters of a text. Default 256.
        dim: int >= 1. Size of an embedding. Default 64.
        buckets: int in [2, 65521]. Number of embeddings, which n-grams share by their hash. Default 16384.
        ngrams: int >= 1. Maximum length of the n-grams, from 1 character. Default 4.
        lower: True to convert texts to lowercase. Default True.

    Raises:
        UserError: If an option is out of range.
    """
    if min(size, dim, ngrams) < 1 or not 2 <= buckets <= _PRIME:
        got = f"size={size}, dim={dim}, buckets={buckets}, ngrams={ngrams}"
        expected = f"size, dim and ngrams >= 1, buckets from 2 to {_PRIME}"
        raise UserError("Options of bag_of_embeddings() are out of range", got=got, expected=expected)
    cfg = PretrainedCfg(size=size, tokenizer=f"code_points(lower={lower})")
    inputs = keras.Input((size,), dtype="int32", name="text")
    hashes = NGrams(ngrams, buckets, name="ngrams")(inputs)
    embeddings = keras.layers.Embedding(buckets, dim, name="embedding")(hashes)
    tokens = Mean(2, name="mean_of_ngrams")(embeddings)
    pooled = Mean(1, name="pooled")(tokens)
    layers = ("ngrams", "embedding", "mean_of_ngrams", "pooled")
    return Backbone("text", cfg, inputs, Features(pooled, tokens=tokens), (LayerGroup("pooled", layers, pooled),))


@keras.saving.register_keras_serializable("tfx_finetune")
class NGrams(keras.layers.Layer):
    """Layer from characters (batch, size) to hashes of the n-grams that start at each, int32 (batch, size, ngrams).

    A shorter text is repeated, with one empty position in between, until it fills the size. No position is then
    padding, and the mean over all positions is the mean over the text. A division by the text length, in contrast,
    would lose precision in int8.

    Args:
        ngrams: int >= 1. Maximum length of the n-grams, from 1 character.
        buckets: int >= 1. Number of hash values.
    """

    def __init__(self, ngrams: int, buckets: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ngrams, self.buckets = ngrams, buckets
        self.trainable = False

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        size, reach = inputs.shape[1], inputs.shape[1] + self.ngrams - 1
        inputs = ops.cast(inputs, "int32")
        length = ops.sum(ops.cast(inputs != 0, "int32"), axis=1, keepdims=True) + 1
        positions = ops.mod(ops.expand_dims(ops.arange(reach, dtype="int32"), 0), length)
        repeated = ops.take_along_axis(ops.pad(inputs, [[0, 0], [0, 1]]), positions, axis=1)
        hashes = []
        current = ops.zeros_like(repeated[:, :size])
        for n in range(self.ngrams):
            current = ops.mod(current * _FACTOR + repeated[:, n : n + size] + 1, _PRIME)
            hashes.append(ops.mod(current, self.buckets))
        return ops.stack(hashes, axis=-1)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return keras.KerasTensor((*inputs.shape, self.ngrams), dtype="int32")

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return super().get_config() | {"ngrams": self.ngrams, "buckets": self.buckets}


@keras.saving.register_keras_serializable("tfx_finetune")
class Mean(keras.layers.Layer):
    """Mean over an axis.

    Args:
        axis: Index of the axis.
    """

    def __init__(self, axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return ops.mean(inputs, axis=self.axis)

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return super().get_config() | {"axis": self.axis}
