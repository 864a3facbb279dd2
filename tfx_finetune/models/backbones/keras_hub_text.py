"""Encoders of texts as keras-hub brings them: BERT (Devlin et al., arXiv 1810.04805) and its descendants."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.extras import package
from tfx_finetune.models.backbones.hub import loaded
from tfx_finetune.models.backbones.tokenizer_file import byte_pairs, unigram, word_piece
from tfx_finetune.models.backbones.transformer import Form, assign, encoder
from tfx_finetune.types.components import BACKBONES, Backbone, Card

_FAMILIES = ("Bert", "DistilBert", "Electra", "Roberta", "XLMRoberta")


@BACKBONES.takes("text")
def keras_hub_text(preset: str = "bert_tiny_en_uncased", size: int = 128, dropout: float = 0.1) -> Backbone:
    """An encoder of keras-hub: BERT, DistilBERT, ELECTRA, RoBERTa or XLM-RoBERTa.

    Its pooled features are the mean of the tokens. Texts are split as the preset says, but that a vocabulary without
    capitals has no accents either, as its authors had it.

    Args:
        preset: A preset of keras-hub, such as `bert_small_en_uncased`, or of Hugging Face, such as
            `hf://sentence-transformers/all-MiniLM-L6-v2`, which keras-hub downloads, or a folder that holds either.
        size: Tokens of a text that are read, 3 to as many as the preset has places for.
        dropout: Share of the numbers that training drops, 0 to below 1.

    Raises:
        UserError: keras-hub is not installed, the preset cannot be had or is of another kind, or an option is out of
            range.
    """
    if size < 3 or not 0 <= dropout < 1:
        received = f"size={size}, dropout={dropout}"
        raise UserError(
            "keras_hub_text is out of range", received=received, allowed="3 tokens or more, dropout below 1"
        )
    found = loaded("Backbone", preset)
    if type(found).__name__ not in [f"{family}Backbone" for family in _FAMILIES]:
        received = f"{preset} ({type(found).__name__})"
        raise UserError("keras_hub_text does not know this kind of network", received=received, allowed=_FAMILIES)
    if size > found.max_sequence_length:
        allowed = f"up to {found.max_sequence_length} tokens"
        raise UserError("the preset has no places for so many tokens", received=f"size={size}", allowed=allowed)
    tokenizer = loaded("Tokenizer", preset)
    # 0 stands for no token, whatever it is in the preset's vocabulary.
    shift = int(tokenizer.pad_token_id != 0)
    folder = Path(preset).expanduser()
    card = Card(
        size=size,
        origin=preset if folder.is_dir() else f"{preset} (keras-hub)",
        sha256=files.sha256(folder) if folder.is_dir() else "",
        tokenizer=f"hugging_face(shift={shift})",
        vocabulary=str(_tokenizer_file(folder, tokenizer)),
    )
    return _copied(found, card, shift, dropout)


def _tokenizer_file(folder: Path, tokenizer: Any) -> Path:
    """The preset's own file where it is one of Hugging Face, else one that is made of its vocabulary."""
    own = folder / "tokenizer.json"
    if own.is_file() and "model" in json.loads(own.read_text("utf-8")):
        return own
    name = type(tokenizer).__name__
    if name == "XLMRobertaTokenizer":
        model = package("sentencepiece", "text").SentencePieceProcessor(model_proto=tokenizer.proto)
        # The network numbers the file's pieces anew: its first three are <unk>, <s> and </s>.
        numbers = range(3, model.get_piece_size())
        pieces = ["<s>", "<pad>", "</s>", "<unk>", *map(model.id_to_piece, numbers)]
        return unigram(name, pieces, np.array([0.0] * 4 + [model.get_score(number) for number in numbers]))
    if name == "RobertaTokenizer":
        return byte_pairs(name, tokenizer.vocabulary, tokenizer.merges)
    return word_piece(name, tokenizer.get_vocabulary(), tokenizer.lowercase)


def _copied(found: Any, card: Card, shift: int, dropout: float) -> Backbone:
    """The same network as an encoder of this package, all tokens being of the first of the types that BERT has."""
    first = found.transformer_layers[0]
    words = found.token_embedding.embeddings.numpy()
    form = Form(
        vocabulary=len(words) + shift,
        blocks=found.num_layers,
        dim=found.hidden_dim,
        heads=found.num_heads,
        hidden=found.intermediate_dim,
        dropout=dropout,
        embedding=words.shape[1] if words.shape[1] != found.hidden_dim else 0,
        epsilon=first.layer_norm_epsilon,
        approximate=first.activation is not keras.activations.gelu,
    )
    if shift:
        words = np.concatenate([np.zeros_like(words[:1]), words])
    words[0] = 0
    places = getattr(found, "position_embedding", None) or found.embeddings.position_embedding
    positions = places.position_embeddings.numpy()[: card.size]
    if types := getattr(found, "segment_embedding", None):
        positions = positions + types.embeddings.numpy()[0]
    tensors = {
        "words": [words],
        "positions": [positions],
        "embedding_norm": found.get_layer("embeddings_layer_norm").get_weights(),
    }
    if form.embedding:
        tensors["embedding_project"] = found.embeddings_projection.get_weights()
    for number, block in enumerate(found.transformer_layers):
        for name, part in _PARTS.items():
            weights = part(block).get_weights()
            if name in ("query", "key", "value", "output"):
                # keras-hub gives the heads an axis of their own.
                weights = [weights[0].reshape(form.dim, form.dim), weights[1].reshape(form.dim)]
            tensors[f"block{number}_{name}"] = weights
    backbone = encoder(card, form)
    assign(backbone, tensors)
    return backbone


# Where keras-hub has what a block of `encoder` has.
_PARTS: dict[str, Callable[[Any], keras.Layer]] = {
    "query": lambda block: block._self_attention_layer.query_dense,
    "key": lambda block: block._self_attention_layer.key_dense,
    "value": lambda block: block._self_attention_layer.value_dense,
    "output": lambda block: block._self_attention_layer.output_dense,
    "attention_norm": lambda block: block._self_attention_layer_norm,
    "wide": lambda block: block._feedforward_intermediate_dense,
    "narrow": lambda block: block._feedforward_output_dense,
    "norm": lambda block: block._feedforward_layer_norm,
}
