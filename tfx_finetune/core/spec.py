"""Spec strings such as `name(option=value)`, by which flags and files name a component and its options.

Python's `ast` module parses them. Values are literals or specs; nothing is evaluated. `str(spec)` parses to an equal
spec.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfx_finetune.core.errors import UserError


@dataclass(frozen=True)
class Spec:
    """Name of a component and its options.

    Examples:
        >>> str(Spec("tflite", (), {"quantize": "int8"}))
        "tflite(quantize='int8')"
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = [repr(value) for value in self.args]
        options += [f"{key}={value!r}" for key, value in self.kwargs.items()]
        return f"{self.name}({', '.join(options)})"

    __repr__ = __str__


def parse_spec(text: str) -> Spec:
    """Parse one spec; parentheses without options may be left out.

    Raises:
        UserError: If the text is malformed or has several specs.

    Examples:
        >>> parse_spec("tflite(quantize='int8')").kwargs
        {'quantize': 'int8'}
        >>> parse_spec("tflite")
        tflite()
    """
    specs = parse_specs(text)
    if len(specs) != 1:
        raise UserError("One component is expected", got=repr(text), expected="name(option=value)")
    return specs[0]


def parse_specs(text: str) -> tuple[Spec, ...]:
    """Parse specs that are separated by commas.

    Raises:
        UserError: If the text is malformed or gives a spec a name.

    Examples:
        >>> parse_specs("saved_model(), tflite(quantize='int8')")
        (saved_model(), tflite(quantize='int8'))
    """
    call = _parse_call(text)
    if call.keywords:
        raise UserError("These components have no names", got=repr(text), expected="a(), b(key=1)")
    return tuple(_parse_spec_node(node, text) for node in call.args)


def parse_named_specs(text: str, default: str) -> dict[str, Spec]:
    """Parse specs with names; a single spec without a name gets the name `default`.

    Raises:
        UserError: If the text is malformed, or one of several specs has no name or the name of another one.

    Examples:
        >>> parse_named_specs("fruit=classify(), ripe=tag()", default="")
        {'fruit': classify(), 'ripe': tag()}
    """
    call = _parse_call(text)
    if len(call.args) == 1 and not call.keywords:
        return {default: _parse_spec_node(call.args[0], text)}
    if call.args:
        raise UserError("Several components need names", got=repr(text), expected="name=component(), ...")
    names = [str(keyword.arg) for keyword in call.keywords]
    if len(set(names)) < len(names):
        raise UserError("A name is given twice", got=repr(text), expected="different names")
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
    expected = "name(option=value, ...), with text in quotes"
    return UserError("The text is not a component spec", got=repr(text), expected=expected, hint=hint)
