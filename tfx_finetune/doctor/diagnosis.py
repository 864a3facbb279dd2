"""What the doctor says: a line for each thing that was looked at, and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass

from tfx_finetune.core.errors import first_line


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at.

    Attributes:
        what: Was looked at.
        state: `ok`; `optional`: something that can be had in addition is not there; `warning`: training works, but
            something is wrong or will run short; `broken`: training does not work before this is mended.
        found: What was seen.
        todo: What to do about it; empty where there is nothing.
    """

    subject: str
    state: str
    message: str
    hint: str = ""


def run_check(subject: str, check: Callable[[], list[Diagnosis]], failure_state: str = "warning") -> list[Diagnosis]:
    """What `look` finds. A broken environment fails in ways that nobody has listed: those are findings of `state`."""
    try:
        return check()
    except Exception as error:
        return [Diagnosis(subject, failure_state, f"cannot be examined: {type(error).__name__}: {first_line(error)}")]
