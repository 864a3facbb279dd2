"""Text -> tokens: what a weight card's `tokenizer` names.

Every tokenizer keeps 0 for the absence of a token. Its positional-only parameters are the file that the card names as
its vocabulary, and how many tokens it gives.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.extras import import_package
from tfx_finetune.core.registry import Registry

TOKENIZERS = Registry("tokenizer", __name__)


class Tokenizer(NamedTuple):
    """encode: Normalized UTF-8, scalar -> int32 (size,), cut or filled with zeros.

    portable: Whether that is made of TensorFlow's own operations, and so can stand inside a SavedModel.
    """

    encode: Callable[[tf.Tensor], tf.Tensor]
    portable: bool


@TOKENIZERS.register
def code_points(vocabulary: str, size: int, /, lower: bool = True) -> Tokenizer:
    """Characters as numbers of Unicode.

    Args:
        vocabulary: None is needed.
        size: Tokens.
        lower: Whether capitals become small letters first, in all scripts that have them.
    """

    def encode(text: tf.Tensor) -> tf.Tensor:
        front = tf.strings.substr(text, 0, size, unit="UTF8_CHAR")
        front = tf.strings.lower(front, encoding="utf-8") if lower else front
        points = tf.strings.unicode_decode(front, "UTF-8")[:size]
        return tf.pad(points, [[0, size - tf.shape(points)[0]]])

    return Tokenizer(encode, portable=True)


@TOKENIZERS.register
def hugging_face(vocabulary: str, size: int, /, prefix: str = "", shift: int = 0) -> Tokenizer:
    """A `tokenizer.json` of Hugging Face: WordPiece, Unigram, byte pairs, with normalization and special tokens.

    Args:
        vocabulary: The file.
        size: Tokens, special ones among them.
        prefix: What is put in front of every text, such as `query: `.
        shift: Is added to the tokens, where the file's 0 is a token like others.
    """

    def ids(text: str) -> Sequence[int]:
        return _load_hugging_face(vocabulary, size).encode(prefix + text).ids

    return _wrap_python_tokenizer(ids, size, shift)


@TOKENIZERS.register
def sentence_piece(vocabulary: str, size: int, /, prefix: str = "", shift: int = 1) -> Tokenizer:
    """A model of SentencePiece (Kudo and Richardson, arXiv 1808.06226), its tokens between begin and end.

    Args:
        vocabulary: The model's file.
        size: Tokens, begin and end among them.
        prefix: What is put in front of every text.
        shift: Is added to the tokens, whose first is 0.
    """

    def ids(text: str) -> Sequence[int]:
        model = _load_sentence_piece(vocabulary)
        found = model.encode(prefix + text)[: size - 2]
        return [model.bos_id(), *found, model.eos_id()]

    return _wrap_python_tokenizer(ids, size, shift)


@functools.lru_cache(maxsize=8)
def _load_hugging_face(path: str, size: int) -> Any:
    tokenizer = _open_vocabulary(import_package("tokenizers", "text").Tokenizer.from_file, path)
    tokenizer.no_padding()
    tokenizer.enable_truncation(size)
    return tokenizer


@functools.lru_cache(maxsize=8)
def _load_sentence_piece(path: str) -> Any:
    return _open_vocabulary(
        lambda file: import_package("sentencepiece", "text").SentencePieceProcessor(model_file=file), path
    )


def _open_vocabulary(read: Callable[[str], Any], path: str) -> Any:
    try:
        return read(path)
    except UserError:
        raise
    except Exception as error:
        # The libraries raise types of their own, and plain Exception.
        raise UserError("not a vocabulary of this tokenizer", got=f"{path} ({error})") from None


def _wrap_python_tokenizer(ids: Callable[[str], Sequence[int]], size: int, shift: int) -> Tokenizer:
    """A tokenizer that a Python library runs. A missing package or file shows at once, not in the pipeline."""
    ids("")

    def encode(text: bytes | np.ndarray) -> np.ndarray:
        plain = np.asarray(text, object).item().decode()
        # A missing text has no token at all, not those for begin and end either.
        found = ids(plain) if plain else []
        tokens = np.zeros(size, np.int32)
        tokens[: len(found)] = np.array(found, np.int32) + shift
        return tokens

    return Tokenizer(lambda text: tf.numpy_function(encode, [text], tf.int32, stateful=False), portable=False)
