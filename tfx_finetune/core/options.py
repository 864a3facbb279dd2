"""Fields of option records: help text, valid range, and functions over records of such fields."""

import dataclasses
from collections.abc import Iterator
from dataclasses import field
from typing import Any, cast

from tfx_finetune.core.errors import UserError, did_you_mean


def option(
    default: Any, text: str, *, low: float | None = None, high: float | None = None, choices: tuple[Any, ...] = ()
) -> Any:
    """Return a dataclass field with a help text and a closed range or a set of valid values.

    Args:
        default: Default value; its type is the type of the option.
        text: Help text.
        low: Smallest valid value; None for no limit.
        high: Largest valid value; None for no limit.
        choices: Valid values; empty for all values of the type.
    """
    return field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices})


def iter_options(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Yield `(dotted name, field, value)` of every option of a record, options of nested records included."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from iter_options(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item, value


def replace_options(config: Any, values: dict[str, Any]) -> Any:
    """Return a copy of a record in which the options with these dotted names have these values.

    Raises:
        UserError: If a name is unknown.
    """
    nested: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    names = {item.name for item in dataclasses.fields(config)}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if head not in names:
            raise UserError("Unknown option", got=name, hint=did_you_mean(head, names))
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            plain[head] = value
    plain |= {head: replace_options(getattr(config, head), rest) for head, rest in nested.items()}
    return dataclasses.replace(config, **plain)


def validate(config: Any) -> None:
    """Check the type and the range of every option of a record.

    Raises:
        UserError: If a value has the wrong type or is out of range; the first such option is named.
    """
    for name, item, value in iter_options(config):
        kind = cast(type, item.type)
        low, high, choices = (item.metadata[key] for key in ("low", "high", "choices"))
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        has_type = isinstance(value, kind) or (kind is float and is_number)
        if not has_type or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"--{name} has the wrong type", got=repr(value), expected=kind.__name__)
        if choices and value not in choices:
            raise UserError(f"--{name} is not one of its choices", got=value, expected=choices)
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            limits = f"at least {low}" if high is None else f"{low} to {high}"
            raise UserError(f"--{name} is out of range", got=value, expected=limits)


def split_names(text: str) -> list[str]:
    """Split the text of an option with names separated by commas; spaces around names and empty names do not count.

    Examples:
        >>> split_names("en, fi,,")
        ['en', 'fi']
    """
    return [name for part in text.split(",") if (name := part.strip())]
