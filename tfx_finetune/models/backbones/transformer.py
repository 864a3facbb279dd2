"""The encoder of BERT (Devlin et al., arXiv 1810.04805) as a flat graph that can be cut behind every block."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfx_finetune.types.components import Backbone, Features, LayerGroup, PretrainedCfg


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder.

    Attributes:
        vocabulary: Rows of the table of words, that of the absence of a token, 0, among them.
        blocks: Of attention and two dense layers.
        dim: Numbers a token.
        heads: Of each attention.
        hidden: Numbers between the two dense layers.
        dropout: Share of the numbers that training drops behind attention and dense layers.
        embedding: Numbers a word that a dense layer makes `dim` (ELECTRA, arXiv 2003.10555); 0 without that layer.
        epsilon: Of every normalization.
        approximate: Whether GELU is computed by tanh, as the authors of BERT do.
    """

    vocabulary_size: int
    blocks: int = 12
    dim: int = 384
    heads: int = 12
    intermediate_dim: int = 1536
    dropout: float = 0.1
    get_embedding_dim: int = 0
    epsilon: float = 1e-12
    approximate_gelu: bool = False


def build_encoder(pretrained_cfg: PretrainedCfg, config: EncoderConfig) -> Backbone:
    """An encoder whose tokens that are 0 are absent, whatever stands around them.

    One tensor goes from block to block, (batch, size, dim), its rows zero where there is no token; each block sees
    from them which these are. Features: `tokens`, `mask`, and `pooled`, the mean of the tokens that are there.

    Args:
        card: Its size is the number of tokens.
        form: Its sizes.
    """
    inputs = keras.Input((pretrained_cfg.size,), dtype="int32", name="text")
    present = IsToken(name="is_token")(inputs)
    x = keras.layers.Embedding(config.vocabulary_size, config.get_embedding_dim or config.dim, name="words")(inputs)
    x = Positions(name="positions")(x)
    x = _make_norm("embedding_norm", config)(x)
    names = ["is_token", "words", "positions", "embedding_norm"]
    if config.get_embedding_dim:
        x = keras.layers.Dense(config.dim, name="embedding_project")(x)
        names.append("embedding_project")
    x = keras.layers.Multiply(name="embedding")([x, present])
    groups = [_make_group("embedding", tuple(names), x)]
    for number in range(config.blocks):
        x = _apply_block(f"block{number}", x, config)
        groups.append(_make_group(f"block{number}", _list_block_layer_names(f"block{number}"), x))
    mask = Present(name="mask")(x)
    pooled = MeanOfPresent(name="pooled")([x, mask])
    tokens = Features(pooled, tokens=x, mask=keras.layers.Reshape((pretrained_cfg.size,), name="mask_of_tokens")(mask))
    return Backbone("text", pretrained_cfg, inputs, tokens, tuple(groups))


def assign_weights(backbone: Backbone, tensors: Mapping[str, Iterable[np.ndarray]]) -> None:
    """Gives an encoder its weights, by the name of the layer; dense kernels as (inputs, outputs)."""
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    for name, values in tensors.items():
        model.get_layer(name).set_weights(list(values))


def _apply_block(name: str, x: keras.KerasTensor, config: EncoderConfig) -> keras.KerasTensor:
    present = Present(name=f"{name}_present")(x)
    query, key, value = (keras.layers.Dense(config.dim, name=f"{name}_{part}")(x) for part in ("query", "key", "value"))
    seen = Attention(config.heads, name=f"{name}_attention")([query, key, value, present])
    seen = keras.layers.Dense(config.dim, name=f"{name}_output")(seen)
    seen = keras.layers.Dropout(config.dropout, name=f"{name}_attention_dropout")(seen)
    x = _make_norm(f"{name}_attention_norm", config)(keras.layers.Add(name=f"{name}_attention_add")([x, seen]))
    gelu = gelu_by_tanh if config.approximate_gelu else "gelu"
    wide = keras.layers.Dense(config.intermediate_dim, activation=gelu, name=f"{name}_wide")(x)
    narrow = keras.layers.Dense(config.dim, name=f"{name}_narrow")(wide)
    narrow = keras.layers.Dropout(config.dropout, name=f"{name}_dropout")(narrow)
    x = _make_norm(f"{name}_make_norm", config)(keras.layers.Add(name=f"{name}_add")([x, narrow]))
    return keras.layers.Multiply(name=name)([x, present])


def _list_block_layer_names(block: str) -> tuple[str, ...]:
    parts = ["present", "query", "key", "value", "attention", "output", "attention_dropout", "attention_add"]
    parts += ["attention_norm", "wide", "narrow", "dropout", "add", "norm"]
    return tuple(f"{block}_{part}" for part in parts)


def _make_norm(name: str, config: EncoderConfig) -> keras.Layer:
    return keras.layers.LayerNormalization(epsilon=config.epsilon, name=name)


def _make_group(name: str, layers: tuple[str, ...], output: keras.KerasTensor) -> LayerGroup:
    return LayerGroup(name, (*layers, name), output)


@keras.saving.register_keras_serializable("tfx_finetune")
def gelu_by_tanh(x: keras.KerasTensor) -> keras.KerasTensor:
    """GELU (arXiv 1606.08415) by its approximation."""
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable("tfx_finetune")
class IsToken(keras.layers.Layer):
    """Tokens (batch, size) -> 1 where there is one, else 0, (batch, size, 1)."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return ops.expand_dims(ops.cast(ops.not_equal(inputs, 0), self.compute_dtype), -1)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return keras.KerasTensor((*inputs.shape, 1), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable("tfx_finetune")
class Present(keras.layers.Layer):
    """Rows (batch, size, dim) -> 1 where one has a number other than 0, else 0, (batch, size, 1)."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        largest = ops.max(ops.absolute(inputs), axis=-1, keepdims=True)
        return ops.cast(ops.greater(largest, 0), self.compute_dtype)


@keras.saving.register_keras_serializable("tfx_finetune")
class Positions(keras.layers.Layer):
    """Adds a vector of its own to each place of (batch, size, dim)."""

    def build(self, input_shape: tuple) -> None:  # noqa: D102
        self.table = self.add_weight(shape=input_shape[1:], initializer="uniform", name="table")

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return inputs + self.table


@keras.saving.register_keras_serializable("tfx_finetune")
class Attention(keras.layers.Layer):
    """Attention of several heads to the rows that are present.

    Takes queries, keys and values (batch, size, dim) and `Present` (batch, size, 1), gives (batch, size, dim).

    Args:
        heads: A divisor of dim.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        *parts, present = inputs
        _, size, dim = parts[0].shape
        width = dim // self.heads

        def split(x: keras.KerasTensor) -> keras.KerasTensor:
            return ops.transpose(ops.reshape(x, (-1, size, self.heads, width)), (0, 2, 1, 3))

        query, key, value = map(split, parts)
        likeness = ops.matmul(query * width**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        # Absent rows get nothing: in any precision the exponential of it is 0.
        absent = ops.reshape(1 - present, (-1, 1, 1, size)) * -30_000.0
        seen = ops.matmul(ops.softmax(likeness + absent), value)
        return ops.reshape(ops.transpose(seen, (0, 2, 1, 3)), (-1, size, dim))

    def compute_output_spec(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        return keras.KerasTensor(inputs[0].shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return super().get_config() | {"heads": self.heads}


@keras.saving.register_keras_serializable("tfx_finetune")
class MeanOfPresent(keras.layers.Layer):
    """The mean (batch, dim) of the rows that are present, of rows (batch, size, dim), zero elsewhere, and `Present`."""

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        rows, present = inputs
        return ops.sum(rows, axis=1) / ops.maximum(ops.sum(present, axis=1), 1)
