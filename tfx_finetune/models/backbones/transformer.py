"""Encoder of BERT (Devlin et al., arXiv 1810.04805) as a flat graph with one layer group per block."""

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
        vocabulary_size: Number of token IDs, with the padding ID 0.
        blocks: Number of transformer blocks.
        dim: Size of a token's features.
        heads: Number of attention heads.
        intermediate_dim: Size of the hidden layer between the two dense layers of a block.
        dropout: Dropout rate behind attention and dense layers.
        embedding_dim: Size of the word embeddings if a dense layer projects them to `dim` (ELECTRA, arXiv 2003.10555);
            0 without projection.
        epsilon: Epsilon of every layer normalization.
        approximate_gelu: True for the tanh approximation of GELU, as in the original BERT.
    """

    vocabulary_size: int
    blocks: int = 12
    dim: int = 384
    heads: int = 12
    intermediate_dim: int = 1536
    dropout: float = 0.1
    embedding_dim: int = 0
    epsilon: float = 1e-12
    approximate_gelu: bool = False


def build_encoder(pretrained_cfg: PretrainedCfg, config: EncoderConfig) -> Backbone:
    """Build an encoder of token IDs, in which ID 0 is padding.

    Blocks are connected by one tensor (batch, size, dim), so that the graph can be cut between them. Its rows are zero
    at padding, from which each block derives the mask. The features are `tokens`, `mask`, and `pooled`, the mean of the
    tokens without padding.

    Args:
        pretrained_cfg: Configuration of the input, whose size is the number of tokens.
        config: Sizes of the encoder.
    """
    inputs = keras.Input((pretrained_cfg.size,), dtype="int32", name="text")
    present = IsToken(name="is_token")(inputs)
    x = keras.layers.Embedding(config.vocabulary_size, config.embedding_dim or config.dim, name="words")(inputs)
    x = Positions(name="positions")(x)
    x = _make_norm("embedding_norm", config)(x)
    names = ["is_token", "words", "positions", "embedding_norm"]
    if config.embedding_dim:
        x = keras.layers.Dense(config.dim, name="embedding_project")(x)
        names.append("embedding_project")
    x = keras.layers.Multiply(name="embedding")([x, present])
    groups = [_make_group("embedding", tuple(names), x)]
    for number in range(config.blocks):
        x = _apply_block(f"block{number}", x, config)
        groups.append(_make_group(f"block{number}", _list_block_layer_names(f"block{number}"), x))
    mask = Present(name="mask")(x)
    pooled = MeanOfPresent(name="pooled")([x, mask])
    token_mask = keras.layers.Reshape((pretrained_cfg.size,), name="mask_of_tokens")(mask)
    features = Features(pooled, tokens=x, mask=token_mask)
    return Backbone("text", pretrained_cfg, inputs, features, tuple(groups))


def assign_weights(backbone: Backbone, tensors: Mapping[str, Iterable[np.ndarray]]) -> None:
    """Set the weights of an encoder.

    Args:
        backbone: The encoder; its weights are changed in place.
        tensors: Weights by layer name, with dense kernels of shape (inputs, outputs).
    """
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    for name, values in tensors.items():
        model.get_layer(name).set_weights(list(values))


def _apply_block(name: str, x: keras.KerasTensor, config: EncoderConfig) -> keras.KerasTensor:
    """Apply a transformer block; `_list_block_layer_names` lists its layers."""
    present = Present(name=f"{name}_present")(x)
    query, key, value = (keras.layers.Dense(config.dim, name=f"{name}_{part}")(x) for part in ("query", "key", "value"))
    attended = Attention(config.heads, name=f"{name}_attention")([query, key, value, present])
    attended = keras.layers.Dense(config.dim, name=f"{name}_output")(attended)
    attended = keras.layers.Dropout(config.dropout, name=f"{name}_attention_dropout")(attended)
    x = _make_norm(f"{name}_attention_norm", config)(keras.layers.Add(name=f"{name}_attention_add")([x, attended]))
    gelu = gelu_by_tanh if config.approximate_gelu else "gelu"
    hidden = keras.layers.Dense(config.intermediate_dim, activation=gelu, name=f"{name}_wide")(x)
    update = keras.layers.Dense(config.dim, name=f"{name}_narrow")(hidden)
    update = keras.layers.Dropout(config.dropout, name=f"{name}_dropout")(update)
    x = _make_norm(f"{name}_norm", config)(keras.layers.Add(name=f"{name}_add")([x, update]))
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
    """Compute GELU by its tanh approximation (arXiv 1606.08415)."""
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable("tfx_finetune")
class IsToken(keras.layers.Layer):
    """Layer from token IDs (batch, size) to a mask (batch, size, 1): 0 at padding, else 1."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return ops.expand_dims(ops.cast(ops.not_equal(inputs, 0), self.compute_dtype), -1)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return keras.KerasTensor((*inputs.shape, 1), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable("tfx_finetune")
class Present(keras.layers.Layer):
    """Layer from rows (batch, size, dim) to a mask (batch, size, 1): 0 for rows of zeros, else 1."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        largest = ops.max(ops.absolute(inputs), axis=-1, keepdims=True)
        return ops.cast(ops.greater(largest, 0), self.compute_dtype)


@keras.saving.register_keras_serializable("tfx_finetune")
class Positions(keras.layers.Layer):
    """Layer that adds trainable position embeddings to (batch, size, dim)."""

    def build(self, input_shape: tuple) -> None:  # noqa: D102
        self.table = self.add_weight(shape=input_shape[1:], initializer="uniform", name="table")

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:  # noqa: D102
        return inputs + self.table


@keras.saving.register_keras_serializable("tfx_finetune")
class Attention(keras.layers.Layer):
    """Multi-head attention with a mask: [queries, keys, values (batch, size, dim), mask (batch, size, 1)] -> features.

    Args:
        heads: Number of heads, a divisor of dim.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        *projections, mask = inputs
        _, size, dim = projections[0].shape
        width = dim // self.heads

        def split(x: keras.KerasTensor) -> keras.KerasTensor:
            return ops.transpose(ops.reshape(x, (-1, size, self.heads, width)), (0, 2, 1, 3))

        query, key, value = map(split, projections)
        logits = ops.matmul(query * width**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        # The exponential of the offset is 0 in every precision.
        offsets = ops.reshape(1 - mask, (-1, 1, 1, size)) * -30_000.0
        attended = ops.matmul(ops.softmax(logits + offsets), value)
        return ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, size, dim))

    def compute_output_spec(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        return keras.KerasTensor(inputs[0].shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return super().get_config() | {"heads": self.heads}


@keras.saving.register_keras_serializable("tfx_finetune")
class MeanOfPresent(keras.layers.Layer):
    """Masked mean: [rows (batch, size, dim), zero at padding; mask (batch, size, 1)] -> mean (batch, dim)."""

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        rows, mask = inputs
        return ops.sum(rows, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1)
