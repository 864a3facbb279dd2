"""Record of one check of the doctor."""

from collections.abc import Callable
from dataclasses import dataclass

from tfx_finetune.core.errors import first_line


@dataclass(frozen=True)
class Diagnosis:
    """Result of one check.

    Attributes:
        subject: Checked package, device, file or folder, as displayed.
        state: `ok`; `optional`: an optional part is missing; `warning`: training works, but a problem exists or will
            arise; `broken`: training does not work.
        message: Observation.
        hint: What to do; empty if there is nothing to do.
    """

    subject: str
    state: str
    message: str
    hint: str = ""


def run_check(subject: str, check: Callable[[], list[Diagnosis]], failure_state: str = "warning") -> list[Diagnosis]:
    """Run a check; an unexpected exception becomes a diagnosis with `failure_state`."""
    try:
        return check()
    except Exception as error:
        return [Diagnosis(subject, failure_state, f"cannot be checked: {type(error).__name__}: {first_line(error)}")]
