"""Texts: what is decoded, what is refused and how that is said, and how tokens are made."""

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


def modality(card=None, **options):
    return MODALITIES.build(Spec("text", (), options), card or PretrainedCfg(size=12))


def decoded(raw, **options):
    return modality(**options).decode(tf.constant(raw)).numpy().decode()


def tokens(text, **options):
    made = modality(**options)
    return made.prepare(made.decode(tf.constant(text))).numpy()


def refused(raw, **options):
    """What is said in a graph, as the survey and the pipeline have it."""
    made = modality(**options)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        tf.function(made.decode, input_signature=[tf.TensorSpec((), tf.string)])(tf.constant(raw))
    return made.reason(caught.value)


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
def test_decoding(raw, text):
    """Any run of blanks and control characters is one blank; all else stays."""
    assert decoded(raw) == text


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "an empty text"),
        (b" \n\xe3\x80\x80", "nothing but white space"),
        ("\ufeff".encode(), "nothing but white space"),
        ("Grüße".encode("latin-1"), "not UTF-8"),
        ("Grüße".encode("utf-16"), "not UTF-8"),
        (b"half a pair \xed\xa0\x80", "not UTF-8"),
        (b"too long \xc0\x80 a zero", "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
        (b"x" * 10_000_000, "a text of 10000000 bytes, at most 1000000"),
    ],
)
def test_what_is_no_text(raw, said):
    """Each is refused before it costs anything, with a reason in a few words."""
    assert refused(raw) == said


def test_limit_of_bytes():
    """As it is said, to the byte."""
    assert decoded("ü" * 50, max_bytes=100) == "ü" * 50
    assert refused("ü" * 51, max_bytes=100) == "a text of 102 bytes, at most 100"
    assert (
        complaint(lambda: modality(max_bytes=0)) == "max_bytes of text is out of range; received: 0; allowed: 1 or more"
    )


@pytest.mark.parametrize("form", ["nfc", "nfkc"])
def test_normal_forms(form):
    """Those of Unicode, which no operation of TensorFlow knows, so that it cannot stand in a SavedModel."""
    text = "\uff28\uff45\uff59 \u2460 \ufb01 e\u0301 \u30ac"
    assert decoded(text, normalize=form) == unicodedata.normalize(form.upper(), text)
    piped = tf.data.Dataset.from_tensors(text).map(modality(normalize=form).decode)
    assert next(iter(piped)).numpy().decode() == unicodedata.normalize(form.upper(), text)
    assert not modality(normalize=form).portable
    assert modality().portable


def test_code_points():
    """Numbers of Unicode of the small letters, cut or filled with zeros; none of a missing text."""
    assert tokens("Ünï 猫🦊").tolist() == [*map(ord, "ünï 猫🦊"), *[0] * 6]
    assert tokens("ABCDEFGHIJKLMNOP").tolist() == [*map(ord, "abcdefghijkl")]
    assert tokens("İİİİİİİİİİİİ").tolist() == [*map(ord, "i̇i̇i̇i̇i̇i̇")]  # two characters each in small letters
    assert tokens("aB", card=PretrainedCfg(size=3, tokenizer="code_points(lower=False)")).tolist() == [97, 66, 0]
    made = modality()
    assert made.prepare(made.blank()).numpy().tolist() == [0] * 12
    assert (made.shape, made.dtype, made.fed) == ((12,), "int32", "int32")
    assert modality(size=5).shape == (5,)


def test_in_a_saved_model(tmp_path):
    """What is portable stands in a SavedModel and gives the same there."""
    made = modality()
    module = tf.Module()
    module.serve = tf.function(
        lambda raw: made.prepare(made.decode(raw)), input_signature=[tf.TensorSpec((), tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    (found,) = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](tf.constant(" Ab\n")).values()
    assert found.numpy().tolist() == tokens("ab").tolist()


def unigram_file(folder):
    """A vocabulary of a few pieces, written by the library itself."""
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
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(list(scores.items()), 3))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    ends = [("<s>", 0), ("</s>", 2)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    made.enable_padding(length=30)
    made.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def test_hugging_face(tmp_path):
    """The best pieces between begin and end, which are kept where a text is cut; 0 is for nothing at all."""
    card = PretrainedCfg(size=6, tokenizer="hugging_face(shift=1)", vocabulary=unigram_file(tmp_path))
    assert tokens("ab a", card=card).tolist() == [1, 5, 6, 7, 3, 0]
    assert tokens("ab ab ab ab ab ab", card=card).tolist() == [1, 5, 5, 5, 5, 3]
    assert tokens("abz", card=card).tolist() == [1, 5, 4, 3, 0, 0]
    prefixed = dataclasses.replace(card, tokenizer="hugging_face(prefix='ab ', shift=1)")
    assert tokens("ab", card=prefixed).tolist() == [1, 5, 5, 3, 0, 0]
    made = modality(card=prefixed)
    assert made.prepare(made.blank()).numpy().tolist() == [0] * 6
    assert not made.portable
    piped = tf.data.Dataset.from_tensor_slices(["ab", "a"]).map(lambda raw: made.prepare(made.decode(raw))).batch(2)
    assert np.array(next(iter(piped))).tolist() == [[1, 5, 5, 3, 0, 0], [1, 5, 6, 7, 3, 0]]


@pytest.mark.parametrize("name", ["hugging_face", "sentence_piece"])
def test_no_vocabulary(tmp_path, name):
    """A missing or wrong file is told when the modality is made, not for every text."""
    (tmp_path / "x").write_text("x")
    for path in (tmp_path / "gone", tmp_path / "x"):
        said = complaint(
            lambda path=path: modality(card=PretrainedCfg(size=4, tokenizer=f"{name}()", vocabulary=str(path)))
        )
        assert said.startswith(f"not a vocabulary of this tokenizer; received: {path} (")


def test_unknown_tokenizer():
    """Names and options are checked as those of any component."""
    said = complaint(lambda: modality(card=PretrainedCfg(size=4, tokenizer="hugingface()")))
    assert said.startswith(
        "unknown tokenizer; received: hugingface; allowed: code_points, hugging_face, sentence_piece"
    )
    assert set(TOKENIZERS) == {"code_points", "hugging_face", "sentence_piece"}


def test_a_package_is_missing(monkeypatch):
    """One line that says what to install."""
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    said = complaint(lambda: modality(card=PretrainedCfg(size=4, tokenizer="sentence_piece()", vocabulary="none")))
    assert said.endswith("not installed; received: sentencepiece; pip install 'tfx_finetune[text]'")
