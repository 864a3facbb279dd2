"""Presets of keras-hub: small networks with random weights, and their tokenizers."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

_WORDS = ["the", "a", "quick", "brown", "fox", "##es", ",", "!", "猫"]
_SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24, "max_sequence_length": 64}


def whisper_preset(folder: Path) -> str:
    """Write the preset of a small Whisper and return its folder."""
    hub = pytest.importorskip("keras_hub")
    sizes = {"vocabulary_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    hub.models.WhisperBackbone(**sizes, max_decoder_sequence_length=4).save_to_preset(str(folder / "whisper"))
    return str(folder / "whisper")


def hub_preset(folder: Path, family: str) -> str:
    """Write the preset of a small text encoder and return its folder.

    Args:
        folder: Folder of the preset.
        family: `Bert`, `DistilBert`, `Electra`, `Roberta` or `XLMRoberta`.
    """
    models = pytest.importorskip("keras_hub").models
    # Enough IDs for the byte pairs, and for the random tokens of `helpers/towers.py`.
    sizes: dict[str, Any] = _SIZES | {"vocab_size" if family == "Electra" else "vocabulary_size": 300}
    if family == "Electra":
        sizes["embedding_dim"] = 8
    getattr(models, f"{family}Backbone")(**sizes).save_to_preset(str(folder))
    make_options = {"Roberta": _byte_pairs, "XLMRoberta": _sentence_piece}.get(family, _word_piece)
    getattr(models, f"{family}Tokenizer")(**make_options()).save_to_preset(str(folder))
    return str(folder)


def _word_piece() -> dict[str, Any]:
    return {"vocabulary": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS], "lowercase": True}


def _byte_pairs() -> dict[str, Any]:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=290, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["the quick brown fox, a quick fox!"] * 9, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocabulary": model["vocab"], "merges": [" ".join(pair) for pair in model["merges"]]}


def _sentence_piece() -> dict[str, Any]:
    stream = io.BytesIO()
    pytest.importorskip("sentencepiece").SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox, a quick fox!", "foxes are quick", "the fox is brown"] * 9),
        model_writer=stream,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return {"proto": stream.getvalue()}
