"""Vocabularies that a package keeps in a form of its own -> `tokenizer.json` of Hugging Face, which bundles copy."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.core import assets, files
from tfx_finetune.core.extras import import_package

# SentencePiece keeps this one, which the normal form would make an ordinary tilde; another stands for it meanwhile.
_TILDE, _PLACEHOLDER = "\uff5e", "\uf8ff"


def write_unigram(name: str, pieces: Sequence[str], scores: np.ndarray) -> Path:
    """The file of a Unigram vocabulary with the special tokens, the normalization and the blanks of XLM-RoBERTa.

    Args:
        name: Of the file.
        pieces: <s>, <pad>, </s>, <unk>, then pieces of words, whose blank is U+2581.
        scores: Of each piece, its logarithmic probability.

    Raises:
        UserError: The package tokenizers is not installed.
    """
    tokenizers = import_package("tokenizers", "text")
    models, normalizers = tokenizers.models, tokenizers.normalizers
    made = tokenizers.Tokenizer(
        models.Unigram(list(zip(pieces, map(float, scores), strict=True)), pieces.index("<unk>"))
    )
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(_TILDE, _PLACEHOLDER),
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Replace(_PLACEHOLDER, _TILDE),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    return _write_tokenizer(made, name, [(piece, pieces.index(piece)) for piece in ("<s>", "</s>")])


def write_word_piece(name: str, pieces: Sequence[str], lower: bool) -> Path:
    """The file of a WordPiece vocabulary, as BERT's authors split texts: small letters also lose their accents.

    Args:
        name: Of the file.
        pieces: [CLS], [SEP] and [UNK] among them; those that go on with a word begin with ##.
        lower: Whether capitals become small letters.

    Raises:
        UserError: The package tokenizers is not installed.
    """
    tokenizers = import_package("tokenizers", "text")
    numbers = {piece: number for number, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(numbers, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lower)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return _write_tokenizer(made, name, [(piece, numbers[piece]) for piece in ("[CLS]", "[SEP]")])


def write_byte_pairs(name: str, piece_ids: Mapping[str, int], merges: Sequence[str]) -> Path:
    """The file of a vocabulary of byte pairs, as those of GPT-2 and RoBERTa.

    Args:
        name: Of the file.
        numbers: Of the pieces, <s> and </s> among them.
        merges: Pairs of pieces, a blank between, the most frequent first.

    Raises:
        UserError: The package tokenizers is not installed.
    """
    tokenizers = import_package("tokenizers", "text")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(dict(piece_ids), pairs))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _write_tokenizer(made, name, [(piece, piece_ids[piece]) for piece in ("<s>", "</s>")])


def _write_tokenizer(tokenizer: Any, name: str, end_tokens: Sequence[tuple[str, int]]) -> Path:
    """Writes a tokenizer that puts texts between two special tokens into the cache, under a name of its content."""
    single = " $A ".join(piece for piece, _ in end_tokens)
    tokenizer.post_processor = import_package("tokenizers", "text").processors.TemplateProcessing(
        single=single, special_tokens=list(end_tokens)
    )
    content = tokenizer.to_str(pretty=False).encode()
    digest = hashlib.sha256(content).hexdigest()[:8]
    path = files.make_writable_folder(assets.get_cache_dir() / "vocabularies", "cache") / f"{name}-{digest}.json"
    if not path.is_file():
        with files.write_atomically(path) as draft:
            draft.write_bytes(content)
    return path
