"""Texts: UTF-8 -> normalized UTF-8 -> tokens.

All but the normal forms of Unicode and the tokenizers of some towers are TensorFlow's own operations, which stand in
the training pipeline and in the exported SavedModel alike.
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

_MAX_PREVIEW_CHARS = 1_000  # characters
_BYTE_ORDER_MARK = "^\ufeff"
# Blanks of any script, line breaks and control characters, a zero among them, which stands for no token.
_WHITESPACE = r"[\p{Z}\p{Cc}]+"


@MODALITIES.register
def text(
    pretrained_cfg: PretrainedCfg,
    /,
    *,
    normalize: Literal["none", "nfc", "nfkc"] = "none",
    max_bytes: int = 1_000_000,
) -> Modality:
    """Texts in UTF-8, any run of blanks and control characters made one blank.

    A text of more tokens than the backbone takes is cut at its end.

    Args:
        card: Says the number of tokens that the backbone takes, and how they are made.
        normalize: Unicode normal form that the text is brought into (Unicode Standard Annex 15): `nfkc` makes
            full-width letters and ligatures ordinary ones. TensorFlow has no operation for it, so with one of them
            the text goes in tokenized into an exported model. Tokenizers of pretrained towers bring their own.
        max_bytes: Longer texts are refused; 1 or more.

    Raises:
        UserError: An option is out of range, or a package for the card's tokenizer is missing.
    """
    if max_bytes < 1:
        raise UserError("max_bytes of text is out of range", got=max_bytes, expected="1 or more")
    tokenizer = TOKENIZERS.build(
        parse_spec(pretrained_cfg.tokenizer or "code_points()"), pretrained_cfg.vocabulary, pretrained_cfg.size
    )

    def decode(raw: tf.Tensor) -> tf.Tensor:
        checked = _check_text(raw, max_bytes)
        if normalize != "none":
            checked = _normalize_unicode(checked, "NFC" if normalize == "nfc" else "NFKC")
        plain = tf.strings.regex_replace(tf.strings.regex_replace(checked, _BYTE_ORDER_MARK, ""), _WHITESPACE, " ")
        plain = tf.strings.strip(plain)
        with tf.control_dependencies([tf.debugging.Assert(plain != "", ["nothing but white space"])]):
            return tf.identity(plain)

    return Modality(
        column="text",
        decode=decode,
        prepare=lambda decoded: tf.ensure_shape(tokenizer.encode(decoded), (pretrained_cfg.size,)),
        shape=(pretrained_cfg.size,),
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
    some = tf.debugging.Assert(length > 0, ["an empty text"])
    fits = tf.debugging.Assert(length <= max_bytes, ["a text of ", length, f" bytes, at most {max_bytes}"])
    with tf.control_dependencies([some, fits]):
        raw = tf.identity(raw)
    same = tf.strings.unicode_transcode(raw, "UTF-8", "UTF-8", errors="replace") == raw
    with tf.control_dependencies([tf.debugging.Assert(same, ["not UTF-8"])]):
        return tf.identity(raw)


def _normalize_unicode(checked: tf.Tensor, form: Literal["NFC", "NFKC"]) -> tf.Tensor:
    def normal(value: bytes | np.ndarray) -> bytes:
        return unicodedata.normalize(form, np.asarray(value, object).item().decode()).encode()

    return tf.ensure_shape(tf.numpy_function(normal, [checked], tf.string, stateful=False), ())
