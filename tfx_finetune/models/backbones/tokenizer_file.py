"""Conversion of vocabularies to `tokenizer.json` files of Hugging Face, which bundles copy."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.core import assets, files
from tfx_finetune.core.extras import import_package

# SentencePiece keeps the full-width tilde, which NFKC would replace; a private character replaces it meanwhile.
_TILDE, _PLACEHOLDER = "\uff5e", "\uf8ff"


def write_unigram(name: str, pieces: Sequence[str], scores: np.ndarray) -> Path:
    """Write a Unigram vocabulary with the special tokens, normalization and whitespace of XLM-RoBERTa.

    Args:
        name: Name of the file without suffix.
        pieces: <s>, <pad>, </s>, <unk>, then pieces of words, with U+2581 for a space.
        scores: Log probability of each piece, (pieces,).

    Returns:
        Path of the file in the cache.

    Raises:
        UserError: If the package tokenizers is not installed.
    """
    tokenizers = import_package("tokenizers", "text")
    models, normalizers = tokenizers.models, tokenizers.normalizers
    model = models.Unigram(list(zip(pieces, map(float, scores), strict=True)), pieces.index("<unk>"))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(_TILDE, _PLACEHOLDER),
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Replace(_PLACEHOLDER, _TILDE),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    return _write_tokenizer(tokenizer, name, [(piece, pieces.index(piece)) for piece in ("<s>", "</s>")])


def write_word_piece(name: str, pieces: Sequence[str], lower: bool) -> Path:
    """Write a WordPiece vocabulary with the text splitting of BERT.

    Args:
        name: Name of the file without suffix.
        pieces: Pieces with [CLS], [SEP] and [UNK]; pieces inside a word start with ##.
        lower: True to convert texts to lowercase and strip accents.

    Returns:
        Path of the file in the cache.

    Raises:
        UserError: If the package tokenizers is not installed.
    """
    tokenizers = import_package("tokenizers", "text")
    piece_ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(piece_ids, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return _write_tokenizer(tokenizer, name, [(piece, piece_ids[piece]) for piece in ("[CLS]", "[SEP]")])


def write_byte_pairs(name: str, piece_ids: Mapping[str, int], merges: Sequence[str]) -> Path:
    """Write a byte pair vocabulary like those of GPT-2 and RoBERTa.

    Args:
        name: Name of the file without suffix.
        piece_ids: ID of each piece, with <s> and </s>.
        merges: Pairs of pieces, separated by a space, the most frequent first.

    Returns:
        Path of the file in the cache.

    Raises:
        UserError: If the package tokenizers is not installed.
    """
    tokenizers = import_package("tokenizers", "text")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(dict(piece_ids), pairs))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _write_tokenizer(tokenizer, name, [(piece, piece_ids[piece]) for piece in ("<s>", "</s>")])


def _write_tokenizer(tokenizer: Any, name: str, end_tokens: Sequence[tuple[str, int]]) -> Path:
    """Write a tokenizer that adds a special token at both ends of a text; the file name has a digest of its content."""
    template = " $A ".join(piece for piece, _ in end_tokens)
    tokenizer.post_processor = import_package("tokenizers", "text").processors.TemplateProcessing(
        single=template, special_tokens=list(end_tokens)
    )
    content = tokenizer.to_str(pretty=False).encode()
    digest = hashlib.sha256(content).hexdigest()[:8]
    path = files.make_writable_folder(assets.get_cache_dir() / "vocabularies", "cache") / f"{name}-{digest}.json"
    if not path.is_file():
        with files.write_atomically(path) as draft:
            draft.write_bytes(content)
    return path
