"""Errors that a user can cause: one line of text and an exit status, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Error that the person who runs a command can correct.

    The text is one line: `message: got. Expected: expected. Hint.`

    Args:
        message: What is wrong, as a sentence without its period.
        got: The invalid value; None if the message contains it.
        expected: The valid values; None if there is no list of them.
        hint: What to do, as a sentence.

    Examples:
        >>> print(UserError("Unknown option", got="lr", expected=["learning_rate"], hint="run --help"))
        Unknown option: lr. Expected: learning_rate. Run --help.
    """

    exit_status = 2

    def __init__(self, message: str, *, got: object = None, expected: object = None, hint: str = "") -> None:
        sentences = [message if got is None else f"{message}: {got}"]
        if expected is not None:
            sentences.append(f"Expected: {_format_expected(expected)}")
        if hint:
            sentences.append(hint[0].upper() + hint[1:])
        super().__init__(" ".join(_end_sentence(" ".join(sentence.split())) for sentence in sentences))


class GateError(UserError):
    """Error of a run that is complete, but whose result does not meet a gate that the user set."""

    exit_status = 3


def first_line(error: BaseException, max_chars: int | None = 200) -> str:
    """Return the first line of an exception's text, or the name of its type if the text is empty.

    Args:
        error: The exception.
        max_chars: int > 0 or None. Longer lines are cut; None for the whole line.

    Examples:
        >>> first_line(ValueError("bad shape\\nexpected (3,)"))
        'bad shape'
        >>> first_line(KeyError())
        'KeyError'
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:max_chars]


def did_you_mean(name: str, valid_names: Iterable[str]) -> str:
    """Return `did you mean X?` for the most similar valid name, or an empty string.

    Examples:
        >>> did_you_mean("clasify", ["classify", "tag"])
        'did you mean classify?'
    """
    near = difflib.get_close_matches(name.lower(), list(valid_names), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def _end_sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _format_expected(expected: object, max_names: int = 40) -> str:
    if isinstance(expected, str) or not isinstance(expected, Iterable):
        return str(expected)
    names = [str(name) for name in expected]
    return ", ".join(names[:max_names]) + (f", ... ({len(names)} in all)" if len(names) > max_names else "")
