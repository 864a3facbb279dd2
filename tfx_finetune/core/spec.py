"""Spec strings: `zero_shot(key=value)`, the form in which flags and files name a component.

They are parsed by Python's own `ast`; values are literals or further specs, nothing is evaluated.
`str(spec)` parses back to an equal spec.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfx_finetune.core.errors import UserError


@dataclass(frozen=True)
class Spec:
    """A component's name and the options given to it."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = [repr(value) for value in self.args]
        shown += [f"{key}={value!r}" for key, value in self.kwargs.items()]
        return f"{self.name}({', '.join(shown)})"

    __repr__ = __str__


def parse_spec(text: str) -> Spec:
    """Parses one spec: `tflite(quantize='int8')`, or `tflite` for `tflite()`."""
    specs = parse_specs(text)
    if len(specs) != 1:
        raise UserError("exactly one component is wanted here", got=repr(text), expected="zero_shot(option=value)")
    return specs[0]


def parse_specs(text: str) -> tuple[Spec, ...]:
    """Parses specs separated by commas: `saved_model(), tflite(quantize='int8')`."""
    call = _parse_call(text)
    if call.keywords:
        raise UserError("these components take no name of their own", got=repr(text), expected="a(), b(key=1)")
    return tuple(_parse_spec_node(node, text) for node in call.args)


def parse_named_specs(text: str, default: str) -> dict[str, Spec]:
    """Parses `fruit=classify(), ripe=tag()`; a lone unnamed spec is named `default`."""
    call = _parse_call(text)
    if len(call.args) == 1 and not call.keywords:
        return {default: _parse_spec_node(call.args[0], text)}
    if call.args:
        raise UserError("several components need a name each", got=repr(text), expected="name=component(), ...")
    named = [str(keyword.arg) for keyword in call.keywords]
    if len(set(named)) < len(named):
        raise UserError("a name is given twice", got=repr(text), expected="a name of its own for each component")
    return {str(keyword.arg): _parse_spec_node(keyword.value, text) for keyword in call.keywords}


def _parse_call(text: str) -> ast.Call:
    try:
        node = ast.parse(f"_({text})", mode="eval").body
    except SyntaxError:
        node = None
    if not isinstance(node, ast.Call) or any(keyword.arg is None for keyword in node.keywords):
        raise _malformed_spec_error(text)
    return node


def _parse_spec_node(node: ast.expr, text: str) -> Spec:
    if isinstance(node, ast.Name):
        return Spec(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(word.arg for word in node.keywords):
        kwargs = {str(word.arg): _parse_value(word.value, text) for word in node.keywords}
        return Spec(node.func.id, tuple(_parse_value(value, text) for value in node.args), kwargs)
    raise _malformed_spec_error(text)


def _parse_value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Call):
        return _parse_spec_node(node, text)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _malformed_spec_error(text, f"quote the value: '{ast.unparse(node)}'") from None


def _malformed_spec_error(text: str, hint: str = "") -> UserError:
    allowed = "zero_shot(option=value, ...), with text in quotes"
    return UserError("not a component spec", got=repr(text), expected=allowed, hint=hint)
