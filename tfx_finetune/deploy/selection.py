"""The file that fits where it is to run: --constraints="size<2MB, score_drop<0.01"."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfx_finetune.core import files
from tfx_finetune.core.errors import GateError, UserError, did_you_mean
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.types.deployment import Constraint

BEST_FILE = "model_best.tflite"
_SIZE_UNITS = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_TIME_UNITS = {"ms": 1.0, "s": 1e3}
_FRACTION_UNITS = {"": 1.0, "%": 0.01}


@dataclass(frozen=True)
class _Measure:
    """What can be limited: how it is read from a check, and its units."""

    get_value: Callable[[VerificationResult], float | None]
    units: Mapping[str, float]


_MEASURES = {
    "size": _Measure(lambda check: check.bytes, _SIZE_UNITS),
    "compressed_size": _Measure(lambda check: check.compressed_bytes, _SIZE_UNITS),
    "memory": _Measure(lambda check: None if check.memory is None else 1e6 * check.memory, _SIZE_UNITS),
    "latency": _Measure(lambda check: check.latency, _TIME_UNITS),
    "single_thread_latency": _Measure(lambda check: check.single_thread_latency, _TIME_UNITS),
    "score_drop": _Measure(lambda check: check.score_drop, _FRACTION_UNITS),
    "score": _Measure(lambda check: check.score, _FRACTION_UNITS),
    "agreement": _Measure(lambda check: check.agreement, _FRACTION_UNITS),
    "difference": _Measure(lambda check: check.difference, _FRACTION_UNITS),
}


def parse_constraints(text: str) -> tuple[Constraint, ...]:
    """Reads the conditions of `--constraints`.

    Args:
        text: Such as `size<2MB, score_drop<0.01, single_thread_latency<20ms`; `<` and `<=` mean the same, so do `>` and `>=`.

    Raises:
        UserError: It names no measure, or a limit in no unit of it.
    """
    limits = []
    for part in filter(None, map(str.strip, text.split(","))):
        found = re.fullmatch(r"(\w+)\s*([<>])=?\s*([\d.]+(?:e-?\d+)?)\s*([A-Za-z%]*)", part)
        allowed = "conditions such as size<2MB, score_drop<0.01"
        if not found:
            raise UserError("--constraints is not understood", got=part, expected=allowed)
        name, sign, number, unit = found.groups()
        if name not in _MEASURES:
            todo = did_you_mean(name, _MEASURES)
            raise UserError("--constraints knows no such measure", got=name, expected=_MEASURES, hint=todo)
        units = _MEASURES[name].units
        if unit not in units:
            raise UserError(
                f"--constraints wants a unit of {name}", got=part, expected=[key or "none" for key in units]
            )
        try:
            limits.append(Constraint(part, name, sign == "<", float(number) * units[unit], unit))
        except ValueError:
            raise UserError("--constraints is not understood", got=part, expected=allowed) from None
    return tuple(limits)


def select_file(constraints: Sequence[Constraint], results: Sequence[VerificationResult]) -> VerificationResult | None:
    """The verified TFLite file within all limits that scores best, and of those the smallest; None where none is."""
    fitting = [
        check
        for check in _filter_verified_tflite(results)
        if not any(_compute_excess(limit, check) for limit in constraints)
    ]
    return min(fitting, key=lambda check: (-check.score, check.bytes), default=None) if constraints else None


def no_file_fits_error(constraints: Sequence[Constraint], results: Sequence[VerificationResult]) -> GateError:
    """What is said where no file is within the limits: which comes closest."""
    received = ", ".join(limit.text for limit in constraints)
    if not (able := _filter_verified_tflite(results)):
        return GateError("no file fits", got=received, hint="add a tflite() to --exports that passes verification")
    closest = min(able, key=lambda check: sum(_compute_excess(limit, check) for limit in constraints))
    missed = [
        f"{limit.measure} {_format_value(limit, closest)}" for limit in constraints if _compute_excess(limit, closest)
    ]
    return GateError("no file fits", got=received, hint=f"{closest.format} comes closest with {', '.join(missed)}")


def link_best_file(selected_path: Path) -> None:
    """Puts the chosen file's name `model_best.tflite` beside it, as a link where the system has them."""
    with files.write_atomically(selected_path.parent / BEST_FILE) as draft:
        try:
            draft.symlink_to(selected_path.name)
        except OSError:
            shutil.copy(selected_path, draft)


def _filter_verified_tflite(results: Sequence[VerificationResult]) -> list[VerificationResult]:
    return [check for check in results if not check.failure_reason and check.total_ops is not None]


def _format_value(constraint: Constraint, result: VerificationResult) -> str:
    """What a file has of a measure, in the unit that was asked in."""
    measure = _MEASURES[constraint.measure]
    value = measure.get_value(result)
    return "unknown" if value is None else f"{value / measure.units[constraint.unit]:.3g}{constraint.unit}"


def _compute_excess(limit: Constraint, result: VerificationResult) -> float:
    """By which share of the bound a file misses a limit; 0 where it fits, infinite where it was not measured."""
    value = _MEASURES[limit.measure].get_value(result)
    if value is None:
        return float("inf")
    over = value - limit.bound if limit.is_upper else limit.bound - value
    return max(over, 0.0) / (abs(limit.bound) or 1.0)
