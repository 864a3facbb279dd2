"""Spec strings are parsed and printed, and no code in them is evaluated."""

import pytest

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_named_specs, parse_spec, parse_specs

SPECS = [
    ("tflite", Spec("tflite")),
    ("tflite()", Spec("tflite")),
    ("tflite(quantize='int8')", Spec("tflite", (), {"quantize": "int8"})),
    ("random_resized_crop(scale=(0.6, 1))", Spec("random_resized_crop", (), {"scale": (0.6, 1)})),
    ("folder('a b/ü')", Spec("folder", ("a b/ü",))),
    ("detect(neck=fpn(dim=64))", Spec("detect", (), {"neck": Spec("fpn", (), {"dim": 64})})),
    ("f(x=-1.5, y=None, z=True, w=[1, 'a'])", Spec("f", (), {"x": -1.5, "y": None, "z": True, "w": [1, "a"]})),
]


@pytest.mark.parametrize(("text", "spec"), SPECS)
def test_spec_parses_and_prints_back(text, spec):
    """The text of a spec, such as in run.cfg, parses to an equal spec."""
    assert parse_spec(text) == spec
    assert parse_spec(str(spec)) == spec


def test_lists_and_names():
    """--exports is a list and --heads has names; a single head without a name gets the default name."""
    assert [spec.name for spec in parse_specs("a(), b(x=1), c")] == ["a", "b", "c"]
    assert parse_specs("") == ()
    assert parse_named_specs("classify()", "label") == {"label": Spec("classify")}
    assert parse_named_specs("a=classify(), b=tag()", "label") == {"a": Spec("classify"), "b": Spec("tag")}


@pytest.mark.parametrize(
    "text",
    [
        "tflite(",
        "a.b()",
        "__import__('os').system('x')",
        "f(x=open('y'))()",
        "f(x=1+y)",
        "f(**{})",
        "1",
        "f(x=y)",
        "a() b()",
    ],
)
def test_malformed_specs_are_errors(text):
    """Any text other than a component with literal options is an error and is not evaluated."""
    with pytest.raises(UserError, match="The text is not a component spec"):
        parse_spec(text)


def test_several_heads_without_names_are_errors():
    """Two heads without names would overwrite each other."""
    with pytest.raises(UserError, match="Several components need names"):
        parse_named_specs("classify(), tag()", "label")
