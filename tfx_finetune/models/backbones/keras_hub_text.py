"""Text encoders of keras-hub: BERT (Devlin et al., arXiv 1810.04805) and its descendants."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.extras import import_package
from tfx_finetune.models.backbones.pretrained import load_hub_preset
from tfx_finetune.models.backbones.tokenizer_file import write_byte_pairs, write_unigram, write_word_piece
from tfx_finetune.models.backbones.transformer import EncoderConfig, assign_weights, build_encoder
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

_FAMILIES = ("Bert", "DistilBert", "Electra", "Roberta", "XLMRoberta")
# Layers of a keras-hub block by the names of `build_encoder`.
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


@BACKBONES.register_for("text")
def keras_hub_text(preset: str = "bert_tiny_en_uncased", size: int = 128, dropout: float = 0.1) -> Backbone:
    """Load an encoder of keras-hub: BERT, DistilBERT, ELECTRA, RoBERTa or XLM-RoBERTa.

    The pooled features are the mean of the token features. Texts are tokenized as in the preset, except that an
    uncased vocabulary also strips accents, as its authors intended.

    Args:
        preset: Preset of keras-hub, such as `bert_small_en_uncased`, or of Hugging Face, such as
            `hf://sentence-transformers/all-MiniLM-L6-v2`, which keras-hub downloads, or the folder of a preset.
            Default `bert_tiny_en_uncased`.
        size: int >= 3, at most the maximum sequence length of the preset. Maximum number of tokens. Default 128.
        dropout: float in [0, 1). Dropout rate. Default 0.1.

    Raises:
        UserError: If keras-hub is not installed, the preset cannot be loaded or is another kind of network, or an
            option is out of range.
    """
    if size < 3 or not 0 <= dropout < 1:
        got = f"size={size}, dropout={dropout}"
        raise UserError("Options of keras_hub_text() are out of range", got=got, expected="size >= 3, 0 <= dropout < 1")
    network = load_hub_preset("Backbone", preset)
    class_name = type(network).__name__
    if class_name not in [f"{family}Backbone" for family in _FAMILIES]:
        message = "keras_hub_text() does not support this kind of network"
        raise UserError(message, got=f"{preset} ({class_name})", expected=_FAMILIES)
    if size > network.max_sequence_length:
        message = "The size of keras_hub_text() exceeds the maximum sequence length of the preset"
        raise UserError(message, got=size, expected=f"at most {network.max_sequence_length} tokens")
    tokenizer = load_hub_preset("Tokenizer", preset)
    # Token IDs are shifted by 1 if the preset's padding ID is not 0, which is the padding ID here.
    shift = int(tokenizer.pad_token_id != 0)
    folder = Path(preset).expanduser()
    cfg = PretrainedCfg(
        size=size,
        origin=preset if folder.is_dir() else f"{preset} (keras-hub)",
        sha256=files.sha256(folder) if folder.is_dir() else "",
        tokenizer=f"hugging_face(shift={shift})",
        vocabulary=str(_find_tokenizer_file(folder, tokenizer)),
    )
    return _copy_encoder(network, cfg, shift, dropout)


def _find_tokenizer_file(folder: Path, tokenizer: Any) -> Path:
    """Return the preset's tokenizer file if it is one of Hugging Face, else write one from the vocabulary."""
    file = folder / "tokenizer.json"
    if file.is_file() and "model" in json.loads(file.read_text("utf-8")):
        return file
    name = type(tokenizer).__name__
    if name == "XLMRobertaTokenizer":
        model = import_package("sentencepiece", "text").SentencePieceProcessor(model_proto=tokenizer.proto)
        # The first three pieces of the file are <unk>, <s> and </s>, which the network orders differently.
        indexes = range(3, model.get_piece_size())
        pieces = ["<s>", "<pad>", "</s>", "<unk>", *map(model.id_to_piece, indexes)]
        return write_unigram(name, pieces, np.array([0.0] * 4 + [model.get_score(index) for index in indexes]))
    if name == "RobertaTokenizer":
        return write_byte_pairs(name, tokenizer.vocabulary, tokenizer.merges)
    return write_word_piece(name, tokenizer.get_vocabulary(), tokenizer.lowercase)


def _copy_encoder(hub_backbone: Any, pretrained_cfg: PretrainedCfg, shift: int, dropout: float) -> Backbone:
    """Copy a keras-hub network to `build_encoder`; all tokens have the first of BERT's token types."""
    first_block = hub_backbone.transformer_layers[0]
    words = hub_backbone.token_embedding.embeddings.numpy()
    config = EncoderConfig(
        vocabulary_size=len(words) + shift,
        blocks=hub_backbone.num_layers,
        dim=hub_backbone.hidden_dim,
        heads=hub_backbone.num_heads,
        intermediate_dim=hub_backbone.intermediate_dim,
        dropout=dropout,
        embedding_dim=words.shape[1] if words.shape[1] != hub_backbone.hidden_dim else 0,
        epsilon=first_block.layer_norm_epsilon,
        approximate_gelu=first_block.activation is not keras.activations.gelu,
    )
    if shift:
        words = np.concatenate([np.zeros_like(words[:1]), words])
    words[0] = 0
    embedding = getattr(hub_backbone, "position_embedding", None) or hub_backbone.embeddings.position_embedding
    positions = embedding.position_embeddings.numpy()[: pretrained_cfg.size]
    if token_types := getattr(hub_backbone, "segment_embedding", None):
        positions = positions + token_types.embeddings.numpy()[0]
    tensors = {
        "words": [words],
        "positions": [positions],
        "embedding_norm": hub_backbone.get_layer("embeddings_layer_norm").get_weights(),
    }
    if config.embedding_dim:
        tensors["embedding_project"] = hub_backbone.embeddings_projection.get_weights()
    for number, block in enumerate(hub_backbone.transformer_layers):
        for name, get_layer in _LAYER_GETTERS.items():
            weights = get_layer(block).get_weights()
            if name in ("query", "key", "value", "output"):
                # keras-hub has a separate axis for the attention heads.
                weights = [weights[0].reshape(config.dim, config.dim), weights[1].reshape(config.dim)]
            tensors[f"block{number}_{name}"] = weights
    backbone = build_encoder(pretrained_cfg, config)
    assign_weights(backbone, tensors)
    return backbone
