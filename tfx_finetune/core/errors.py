"""What a user can cause ends in one line and an exit status, never in a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the person who runs a command can mend.

    Args:
        what: What is wrong.
        received: The value that was received.
        allowed: What would have been accepted.
        todo: What to do about it.

    Prints as `what; received: ...; allowed: ...; todo`, on one line.
    """

    exit_status = 2

    def __init__(self, what: str, *, received: object = None, allowed: object = None, todo: str = "") -> None:
        parts = [what]
        if received is not None:
            parts.append(f"received: {received}")
        if allowed is not None:
            parts.append(f"allowed: {_listed(allowed)}")
        if todo:
            parts.append(todo)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))


class GateError(UserError):
    """The run is complete but its result does not meet a gate that the user set."""

    exit_status = 3


def first_line(error: BaseException, most: int | None = 200) -> str:
    """The first line of what a library's exception says, cut at `most` characters; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `did you mean X?` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def _listed(allowed: object, most: int = 40) -> str:
    if isinstance(allowed, str) or not isinstance(allowed, Iterable):
        return str(allowed)
    names = [str(name) for name in allowed]
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
