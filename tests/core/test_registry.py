"""Registries build components from specs, and name the error and the valid values of a wrong spec."""

from typing import Literal

import pytest

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.registry import Registry
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.types.components import REGISTRIES


@pytest.fixture
def registry():
    registry = Registry("export", "tfx_finetune")

    @registry.register
    def tflite(
        context: object,
        /,
        quantize: Literal["none", "int8"] = "none",
        count: int = 1,
        scale: tuple[float, float] = (0, 1),
    ):
        return context, quantize, count, scale

    return registry


def test_builds_with_context_and_options(registry):
    """The caller passes the context, the spec has the options, and missing options get their defaults."""
    assert registry.build(parse_spec("tflite('int8', scale=(0.5, 1))"), "ctx") == ("ctx", "int8", 1, (0.5, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tflit()", "Unknown export: tflit. Expected: tflite. Did you mean tflite?"),
        ("tflite(quantise='int8')", "Did you mean quantize?"),
        ("tflite(quantize='int4')", "Expected: Literal['none', 'int8']."),
        ("tflite(count='3')", ": '3'. Expected: int."),
        ("tflite(count=True)", ": True. Expected: int."),
        ("tflite(scale=(1, 'x'))", "Wrong value for scale"),
        ("tflite('none', 1, (0, 1), 4)", "too many positional arguments"),
        ("tflite(context=1)", "Unknown option"),
    ],
)
def test_errors_in_specs(registry, text, message):
    """An error is one line with the invalid value and the valid values."""
    with pytest.raises(UserError) as error:
        registry.resolve_options(parse_spec(text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_double_registration_is_a_programming_error(registry):
    """One of two components with the same name would be unreachable."""
    with pytest.raises(ValueError, match="twice"):
        registry.register(lambda: None, "tflite")


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_component_documents_and_types_its_options(registry):
    """`inspect --list` prints the signature and the first line of the docstring of every component."""
    assert len(registry) > 0
    for name in registry:
        assert (registry[name].__doc__ or "").strip(), f"{registry.kind} {name} has no docstring"
        for parameter in registry.get_signature(name).parameters.values():
            assert parameter.annotation is not parameter.empty, f"{registry.kind} {name}: {parameter.name} has no type"
