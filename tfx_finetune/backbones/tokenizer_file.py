"""Vocabularies that a package keeps in a form of its own -> `tokenizer.json` of Hugging Face, which bundles copy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfx_finetune.core import assets, files
from tfx_finetune.core.extras import package

# SentencePiece keeps this one, which the normal form would make an ordinary tilde; another stands for it meanwhile.
_TILDE, _STAND_IN = "\uff5e", "\uf8ff"


def unigram(name: str, pieces: Sequence[str], scores: np.ndarray) -> Path:
    """The file of a Unigram vocabulary with the special tokens, the normalization and the blanks of XLM-RoBERTa.

    It is made once and kept in the cache.

    Args:
        name: Of the file.
        pieces: <s>, <pad>, </s>, <unk>, then pieces of words, whose blank is U+2581.
        scores: Of each piece, its logarithmic probability.

    Raises:
        UserError: The package tokenizers is not installed.
    """
    path = files.writable_folder(assets.cache() / "vocabularies", "cache") / f"{name}.json"
    if path.is_file():
        return path
    tokenizers = package("tokenizers", "text")
    models, normalizers = tokenizers.models, tokenizers.normalizers
    made = tokenizers.Tokenizer(
        models.Unigram(list(zip(pieces, map(float, scores), strict=True)), pieces.index("<unk>"))
    )
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(_TILDE, _STAND_IN),
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Replace(_STAND_IN, _TILDE),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    ends = [(piece, pieces.index(piece)) for piece in ("<s>", "</s>")]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    with files.atomic(path) as draft:
        made.save(str(draft), pretty=False)
    return path
