"""Encoders of texts as keras-hub brings them: BERT (Devlin et al., arXiv 1810.04805) and its descendants."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.extras import import_package
from tfx_finetune.models.backbones.hub import load_preset
from tfx_finetune.models.backbones.tokenizer_file import write_byte_pairs, write_unigram, write_word_piece
from tfx_finetune.models.backbones.transformer import EncoderConfig, assign_weights, build_encoder
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

_FAMILIES = ("Bert", "DistilBert", "Electra", "Roberta", "XLMRoberta")


@BACKBONES.register_for("text")
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
        raise UserError("keras_hub_text is out of range", got=received, expected="3 tokens or more, dropout below 1")
    found = load_preset("Backbone", preset)
    if type(found).__name__ not in [f"{family}Backbone" for family in _FAMILIES]:
        received = f"{preset} ({type(found).__name__})"
        raise UserError("keras_hub_text does not know this kind of network", got=received, expected=_FAMILIES)
    if size > found.max_sequence_length:
        allowed = f"up to {found.max_sequence_length} tokens"
        raise UserError("the preset has no places for so many tokens", got=f"size={size}", expected=allowed)
    tokenizer = load_preset("Tokenizer", preset)
    # 0 stands for no token, whatever it is in the preset's vocabulary.
    shift = int(tokenizer.pad_token_id != 0)
    folder = Path(preset).expanduser()
    card = PretrainedCfg(
        size=size,
        origin=preset if folder.is_dir() else f"{preset} (keras-hub)",
        sha256=files.sha256(folder) if folder.is_dir() else "",
        tokenizer=f"hugging_face(shift={shift})",
        vocabulary=str(_find_tokenizer_file(folder, tokenizer)),
    )
    return _copy_encoder(found, card, shift, dropout)


def _find_tokenizer_file(folder: Path, tokenizer: Any) -> Path:
    """The preset's own file where it is one of Hugging Face, else one that is made of its vocabulary."""
    own = folder / "tokenizer.json"
    if own.is_file() and "model" in json.loads(own.read_text("utf-8")):
        return own
    name = type(tokenizer).__name__
    if name == "XLMRobertaTokenizer":
        model = import_package("sentencepiece", "text").SentencePieceProcessor(model_proto=tokenizer.proto)
        # The network numbers the file's pieces anew: its first three are <unk>, <s> and </s>.
        numbers = range(3, model.get_piece_size())
        pieces = ["<s>", "<pad>", "</s>", "<unk>", *map(model.id_to_piece, numbers)]
        return write_unigram(name, pieces, np.array([0.0] * 4 + [model.get_score(number) for number in numbers]))
    if name == "RobertaTokenizer":
        return write_byte_pairs(name, tokenizer.vocabulary, tokenizer.merges)
    return write_word_piece(name, tokenizer.get_vocabulary(), tokenizer.lowercase)


def _copy_encoder(hub_backbone: Any, pretrained_cfg: PretrainedCfg, shift: int, dropout: float) -> Backbone:
    """The same network as an encoder of this package, all tokens being of the first of the types that BERT has."""
    first = hub_backbone.transformer_layers[0]
    words = hub_backbone.token_embedding.embeddings.numpy()
    form = EncoderConfig(
        vocabulary_size=len(words) + shift,
        blocks=hub_backbone.num_layers,
        dim=hub_backbone.hidden_dim,
        heads=hub_backbone.num_heads,
        intermediate_dim=hub_backbone.intermediate_dim,
        dropout=dropout,
        get_embedding_dim=words.shape[1] if words.shape[1] != hub_backbone.hidden_dim else 0,
        epsilon=first.layer_norm_epsilon,
        approximate_gelu=first.activation is not keras.activations.gelu,
    )
    if shift:
        words = np.concatenate([np.zeros_like(words[:1]), words])
    words[0] = 0
    places = getattr(hub_backbone, "position_embedding", None) or hub_backbone.embeddings.position_embedding
    positions = places.position_embeddings.numpy()[: pretrained_cfg.size]
    if types := getattr(hub_backbone, "segment_embedding", None):
        positions = positions + types.embeddings.numpy()[0]
    tensors = {
        "words": [words],
        "positions": [positions],
        "embedding_norm": hub_backbone.get_layer("embeddings_layer_norm").get_weights(),
    }
    if form.get_embedding_dim:
        tensors["embedding_project"] = hub_backbone.embeddings_projection.get_weights()
    for number, block in enumerate(hub_backbone.transformer_layers):
        for name, part in _LAYER_GETTERS.items():
            weights = part(block).get_weights()
            if name in ("query", "key", "value", "output"):
                # keras-hub gives the heads an axis of their own.
                weights = [weights[0].reshape(form.dim, form.dim), weights[1].reshape(form.dim)]
            tensors[f"block{number}_{name}"] = weights
    backbone = build_encoder(pretrained_cfg, form)
    assign_weights(backbone, tensors)
    return backbone


# Where keras-hub has what a block of `encoder` has.
_LAYER_GETTERS: dict[str, Callable[[Any], keras.Layer]] = {
    "query": lambda block: block._self_attention_layer.query_dense,
    "key": lambda block: block._self_attention_layer.key_dense,
    "value": lambda block: block._self_attention_layer.value_dense,
    "output": lambda block: block._self_attention_layer.output_dense,
    "attention_norm": lambda block: block._self_attention_layer_norm,
    "wide": lambda block: block._feedforward_intermediate_dense,
    "narrow": lambda block: block._feedforward_output_dense,
    "norm": lambda block: block._feedforward_layer_norm,
}
