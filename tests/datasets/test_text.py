"""Texts: decoding, reasons for rejected texts, and tokenizers."""

import dataclasses
import sys
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.modalities.tokenizers import TOKENIZERS
from tfx_finetune.types.components import MODALITIES, PretrainedCfg


def modality(cfg=None, **options):
    return MODALITIES.build(Spec("text", (), options), cfg or PretrainedCfg(size=12))


def decode(raw, **options):
    return modality(**options).decode(tf.constant(raw)).numpy().decode()


def tokens(text, **options):
    text_modality = modality(**options)
    return text_modality.prepare(text_modality.decode(tf.constant(text))).numpy()


def decode_error(raw, **options):
    """Return the reason of an error of decoding in a graph."""
    text_modality = modality(**options)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        tf.function(text_modality.decode, input_signature=[tf.TensorSpec((), tf.string)])(tf.constant(raw))
    return text_modality.error_message(error.value)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Grüße aus 東京", "Grüße aus 東京"),
        ("\ufeffwith a mark", "with a mark"),
        (" two\r\n\r\nlines\tand\u00a0blanks\u3000of\u2003all kinds ", "two lines and blanks of all kinds"),
        ("a\0b", "a b"),
        ("a\u200db\ufffdc", "a\u200db\ufffdc"),  # joiners are part of words, and a replaced character is a character
        ("🦊" * 3, "🦊🦊🦊"),
    ],
)
def test_white_space_is_normalized(raw, text):
    """Every run of white space and control characters becomes one space; other characters are kept."""
    assert decode(raw) == text


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty text"),
        (b" \n\xe3\x80\x80", "only white space"),
        ("\ufeff".encode(), "only white space"),
        ("Grüße".encode("latin-1"), "not UTF-8"),
        ("Grüße".encode("utf-16"), "not UTF-8"),
        (b"half a pair \xed\xa0\x80", "not UTF-8"),
        (b"too long \xc0\x80 a zero", "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
        (b"x" * 10_000_000, "text of 10000000 bytes, at most 1000000"),
    ],
)
def test_invalid_texts_are_rejected_with_a_reason(raw, reason):
    """Empty, too long and non-UTF-8 texts have a short reason."""
    assert decode_error(raw) == reason


def test_limit_of_bytes():
    """The limit is exact to the byte."""
    assert decode("ü" * 50, max_bytes=100) == "ü" * 50
    assert decode_error("ü" * 51, max_bytes=100) == "text of 102 bytes, at most 100"
    assert (
        complaint(lambda: modality(max_bytes=0))
        == "Options of text() are out of range: max_bytes=0. Expected: max_bytes >= 1."
    )


@pytest.mark.parametrize("form", ["nfc", "nfkc"])
def test_unicode_normal_forms(form):
    """Text is normalized as by `unicodedata`; since TensorFlow has no such operation, it is not portable."""
    text = "\uff28\uff45\uff59 \u2460 \ufb01 e\u0301 \u30ac"
    assert decode(text, normalize=form) == unicodedata.normalize(form.upper(), text)
    piped = tf.data.Dataset.from_tensors(text).map(modality(normalize=form).decode)
    assert next(iter(piped)).numpy().decode() == unicodedata.normalize(form.upper(), text)
    assert not modality(normalize=form).portable
    assert modality().portable


def test_code_points():
    """Tokens are the code points of the lower-case text, cut or padded with zeros; a missing text has no tokens."""
    assert tokens("Ünï 猫🦊").tolist() == [*map(ord, "ünï 猫🦊"), *[0] * 6]
    assert tokens("ABCDEFGHIJKLMNOP").tolist() == [*map(ord, "abcdefghijkl")]
    assert tokens("İİİİİİİİİİİİ").tolist() == [*map(ord, "i̇i̇i̇i̇i̇i̇")]  # two characters each in lower case
    assert tokens("aB", cfg=PretrainedCfg(size=3, tokenizer="code_points(lower=False)")).tolist() == [97, 66, 0]
    text_modality = modality()
    assert text_modality.prepare(text_modality.empty_value()).numpy().tolist() == [0] * 12
    assert (text_modality.shape, text_modality.dtype, text_modality.input_dtype) == ((12,), "int32", "int32")
    assert modality(PretrainedCfg(size=5)).shape == (5,)


def test_the_same_tokens_inside_a_saved_model(tmp_path):
    """A portable modality gives the same tokens inside a SavedModel."""
    text_modality = modality()
    module = tf.Module()
    module.serve = tf.function(
        lambda raw: text_modality.prepare(text_modality.decode(raw)), input_signature=[tf.TensorSpec((), tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    (served,) = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](tf.constant(" Ab\n")).values()
    assert served.numpy().tolist() == tokens("ab").tolist()


def write_unigram_file(folder):
    """Write a small vocabulary with the tokenizers library."""
    import tokenizers

    scores = {
        "<s>": 0.0,
        "<pad>": 0.0,
        "</s>": 0.0,
        "<unk>": 0.0,
        "\u2581ab": -1.0,
        "\u2581": -2.0,
        "a": -3.0,
        "b": -3.0,
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(list(scores.items()), 3))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    special_tokens = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=special_tokens
    )
    tokenizer.enable_padding(length=30)
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def test_hugging_face(tmp_path):
    """Begin and end tokens are kept if a text is cut, and the padding is 0; a missing text has no tokens."""
    cfg = PretrainedCfg(size=6, tokenizer="hugging_face(shift=1)", vocabulary=write_unigram_file(tmp_path))
    assert tokens("ab a", cfg=cfg).tolist() == [1, 5, 6, 7, 3, 0]
    assert tokens("ab ab ab ab ab ab", cfg=cfg).tolist() == [1, 5, 5, 5, 5, 3]
    assert tokens("abz", cfg=cfg).tolist() == [1, 5, 4, 3, 0, 0]
    prefixed = dataclasses.replace(cfg, tokenizer="hugging_face(prefix='ab ', shift=1)")
    assert tokens("ab", cfg=prefixed).tolist() == [1, 5, 5, 3, 0, 0]
    text_modality = modality(cfg=prefixed)
    assert text_modality.prepare(text_modality.empty_value()).numpy().tolist() == [0] * 6
    assert not text_modality.portable
    texts = tf.data.Dataset.from_tensor_slices(["ab", "a"])
    piped = texts.map(lambda raw: text_modality.prepare(text_modality.decode(raw))).batch(2)
    assert np.array(next(iter(piped))).tolist() == [[1, 5, 5, 3, 0, 0], [1, 5, 6, 7, 3, 0]]


@pytest.mark.parametrize("name", ["hugging_face", "sentence_piece"])
def test_a_missing_vocabulary_is_reported(tmp_path, name):
    """A missing or invalid file is reported when the modality is built, not for every text."""
    (tmp_path / "x").write_text("x")
    for path in (tmp_path / "gone", tmp_path / "x"):
        message = complaint(
            lambda path=path: modality(cfg=PretrainedCfg(size=4, tokenizer=f"{name}()", vocabulary=str(path)))
        )
        assert message.startswith(f"The file is not a vocabulary of this tokenizer: {path} (")


def test_unknown_tokenizer():
    """Names of tokenizers are checked like those of any component."""
    message = complaint(lambda: modality(cfg=PretrainedCfg(size=4, tokenizer="hugingface()")))
    assert message.startswith("Unknown tokenizer: hugingface. Expected: code_points, hugging_face, sentence_piece.")
    assert set(TOKENIZERS) == {"code_points", "hugging_face", "sentence_piece"}


def test_a_package_is_missing(monkeypatch):
    """The error names the package to install."""
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    message = complaint(lambda: modality(cfg=PretrainedCfg(size=4, tokenizer="sentence_piece()", vocabulary="none")))
    assert message.endswith("not installed: sentencepiece. Run: pip install 'tfx_finetune[text]'.")
