"""Text modality: UTF-8 -> normalized UTF-8 -> tokens.

Everything except the Unicode normal forms and the tokenizers of some backbones runs in TensorFlow operations, in the
training pipeline and in the exported SavedModel alike.
"""

import unicodedata
from typing import Literal

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets.modalities.image import describe_error
from tfx_finetune.datasets.modalities.tokenizers import TOKENIZERS
from tfx_finetune.types.components import MODALITIES, Modality, PretrainedCfg, SamplePreview

_MAX_PREVIEW_CHARS = 1_000
_BYTE_ORDER_MARK = "^\ufeff"
# Spaces of any script, line breaks and control characters, including U+0000, since token 0 means padding.
_WHITESPACE = r"[\p{Z}\p{Cc}]+"


@MODALITIES.register
def text(
    pretrained_cfg: PretrainedCfg,
    /,
    *,
    normalize: Literal["none", "nfc", "nfkc"] = "none",
    max_bytes: int = 1_000_000,
) -> Modality:
    """Texts in UTF-8; every run of white space and control characters becomes one space.

    A text with more tokens than the model input is cut at its end.

    Args:
        pretrained_cfg: Number of tokens of the model input, and the tokenizer with its vocabulary.
        normalize: Unicode normal form (Unicode Standard Annex 15): `nfkc` also replaces full-width letters and
            ligatures by ordinary ones. TensorFlow has no operation for it, so an exported model then takes tokens
            instead of text. Tokenizers of pretrained backbones have their own normalization. Default `none`.
        max_bytes: int >= 1. Longer texts are rejected. Default 1 million.

    Raises:
        UserError: If an option is out of range, or if the package or vocabulary of the tokenizer is missing.
    """
    if max_bytes < 1:
        raise UserError("Options of text() are out of range", got=f"max_bytes={max_bytes}", expected="max_bytes >= 1")
    size = pretrained_cfg.size
    tokenizer = TOKENIZERS.build(
        parse_spec(pretrained_cfg.tokenizer or "code_points()"), pretrained_cfg.vocabulary, size
    )

    def decode(raw: tf.Tensor) -> tf.Tensor:
        content = _check_text(raw, max_bytes)
        if normalize != "none":
            content = _normalize_unicode(content, "NFC" if normalize == "nfc" else "NFKC")
        content = tf.strings.regex_replace(content, _BYTE_ORDER_MARK, "")
        content = tf.strings.strip(tf.strings.regex_replace(content, _WHITESPACE, " "))
        with tf.control_dependencies([tf.debugging.Assert(content != "", ["only white space"])]):
            return tf.identity(content)

    return Modality(
        column="text",
        decode=decode,
        prepare=lambda content: tf.ensure_shape(tokenizer.encode(content), (size,)),
        shape=(size,),
        empty_value=lambda: tf.constant(""),
        portable=tokenizer.portable and normalize == "none",
        dtype="int32",
        unit="texts",
        inline=True,
        error_message=describe_error,
        preview=lambda raw, prepared: SamplePreview(text=raw.decode("utf-8", "replace")[:_MAX_PREVIEW_CHARS]),
    )


def _check_text(raw: tf.Tensor, max_bytes: int) -> tf.Tensor:
    length = tf.strings.length(raw)
    is_not_empty = tf.debugging.Assert(length > 0, ["empty text"])
    is_within_limit = tf.debugging.Assert(length <= max_bytes, ["text of ", length, f" bytes, at most {max_bytes}"])
    with tf.control_dependencies([is_not_empty, is_within_limit]):
        raw = tf.identity(raw)
    is_utf8 = tf.strings.unicode_transcode(raw, "UTF-8", "UTF-8", errors="replace") == raw
    with tf.control_dependencies([tf.debugging.Assert(is_utf8, ["not UTF-8"])]):
        return tf.identity(raw)


def _normalize_unicode(content: tf.Tensor, form: Literal["NFC", "NFKC"]) -> tf.Tensor:
    def normalize(value: bytes | np.ndarray) -> bytes:
        return unicodedata.normalize(form, np.asarray(value, object).item().decode()).encode()

    return tf.ensure_shape(tf.numpy_function(normalize, [content], tf.string, stateful=False), ())
