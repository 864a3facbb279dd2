"""Tokenizers, which a backbone's `PretrainedCfg.tokenizer` names.

Token 0 is padding in every tokenizer. The positional-only parameters are the vocabulary file and the number of tokens,
both of which the `PretrainedCfg` gives.
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
    """Conversion of text to tokens.

    Attributes:
        encode: Normalized UTF-8, scalar string -> int32 (size,), cut or padded with 0.
        portable: True if `encode` consists of TensorFlow operations, so that a SavedModel can contain it.
    """

    encode: Callable[[tf.Tensor], tf.Tensor]
    portable: bool


@TOKENIZERS.register
def code_points(vocabulary: str, size: int, /, lower: bool = True) -> Tokenizer:
    """Unicode code points of the characters.

    Args:
        vocabulary: Not used.
        size: int >= 1. Number of tokens.
        lower: If True, text is converted to lower case first, in all scripts that have it. Default True.
    """

    def encode(text: tf.Tensor) -> tf.Tensor:
        start = tf.strings.substr(text, 0, size, unit="UTF8_CHAR")
        start = tf.strings.lower(start, encoding="utf-8") if lower else start
        points = tf.strings.unicode_decode(start, "UTF-8")[:size]
        return tf.pad(points, [[0, size - tf.shape(points)[0]]])

    return Tokenizer(encode, portable=True)


@TOKENIZERS.register
def hugging_face(vocabulary: str, size: int, /, prefix: str = "", shift: int = 0) -> Tokenizer:
    """Tokenizer of a Hugging Face `tokenizer.json`: WordPiece, Unigram or BPE, with normalization and special tokens.

    Args:
        vocabulary: Path of the `tokenizer.json`.
        size: int >= 1. Number of tokens, including special tokens.
        prefix: Text in front of every input, such as `query: `. Default empty.
        shift: int. Added to every token, for files in which 0 is an ordinary token. Default 0.

    Raises:
        UserError: If the file is not a vocabulary, or if the package tokenizers is not installed.
    """

    def encode_ids(text: str) -> Sequence[int]:
        return _load_hugging_face(vocabulary, size).encode(prefix + text).ids

    return _wrap_python_tokenizer(encode_ids, size, shift)


@TOKENIZERS.register
def sentence_piece(vocabulary: str, size: int, /, prefix: str = "", shift: int = 1) -> Tokenizer:
    """SentencePiece model (Kudo and Richardson, arXiv 1808.06226) with begin and end tokens.

    Args:
        vocabulary: Path of the model file.
        size: int >= 2. Number of tokens, including begin and end.
        prefix: Text in front of every input. Default empty.
        shift: int. Added to every token, since 0 is an ordinary token of the model. Default 1.

    Raises:
        UserError: If the file is not a vocabulary, or if the package sentencepiece is not installed.
    """

    def encode_ids(text: str) -> Sequence[int]:
        model = _load_sentence_piece(vocabulary)
        pieces = model.encode(prefix + text)[: size - 2]
        return [model.bos_id(), *pieces, model.eos_id()]

    return _wrap_python_tokenizer(encode_ids, size, shift)


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
        # The libraries raise error types of their own, and plain Exception.
        raise UserError("The file is not a vocabulary of this tokenizer", got=f"{path} ({error})") from None


def _wrap_python_tokenizer(encode_ids: Callable[[str], Sequence[int]], size: int, shift: int) -> Tokenizer:
    """Wrap a Python tokenizer, and encode an empty text at once so that a missing package or file is reported early."""
    encode_ids("")

    def encode(text: bytes | np.ndarray) -> np.ndarray:
        content = np.asarray(text, object).item().decode()
        # A missing text has no tokens at all, not even begin and end.
        ids = encode_ids(content) if content else []
        tokens = np.zeros(size, np.int32)
        tokens[: len(ids)] = np.array(ids, np.int32) + shift
        return tokens

    return Tokenizer(lambda text: tf.numpy_function(encode, [text], tf.int32, stateful=False), portable=False)
