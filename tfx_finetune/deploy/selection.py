"""Selection of the best file within limits, such as `--constraints="size<2MB, score_drop<0.01"`."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfx_finetune.core import files
from tfx_finetune.core.errors import GateError, UserError, did_you_mean
from tfx_finetune.core.options import split_names
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.types.deployment import Constraint

BEST_FILE = "model_best.tflite"
_SIZE_UNITS = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_TIME_UNITS = {"ms": 1.0, "s": 1e3}
_FRACTION_UNITS = {"": 1.0, "%": 0.01}


@dataclass(frozen=True)
class _Measure:
    """Measurement that can be limited.

    Attributes:
        get_value: Verification result -> value in the base unit, or None if it was not measured.
        units: Factors to the base unit by unit.
    """

    get_value: Callable[[VerificationResult], float | None]
    units: Mapping[str, float]


_MEASURES = {
    "size": _Measure(lambda result: result.bytes, _SIZE_UNITS),
    "compressed_size": _Measure(lambda result: result.compressed_bytes, _SIZE_UNITS),
    "memory": _Measure(lambda result: None if result.memory is None else 1e6 * result.memory, _SIZE_UNITS),
    "latency": _Measure(lambda result: result.latency, _TIME_UNITS),
    "single_thread_latency": _Measure(lambda result: result.single_thread_latency, _TIME_UNITS),
    "score_drop": _Measure(lambda result: result.score_drop, _FRACTION_UNITS),
    "score": _Measure(lambda result: result.score, _FRACTION_UNITS),
    "agreement": _Measure(lambda result: result.agreement, _FRACTION_UNITS),
    "difference": _Measure(lambda result: result.difference, _FRACTION_UNITS),
}


def parse_constraints(text: str) -> tuple[Constraint, ...]:
    """Parse the value of `--constraints`.

    Args:
        text: Limits such as `size<2MB, score_drop<0.01, single_thread_latency<20ms`. `<` and `<=` have the same
            meaning, and so have `>` and `>=`.

    Raises:
        UserError: If a limit names no measurement, or has a wrong unit.

    Examples:
        >>> (constraint,) = parse_constraints("size<2MB")
        >>> constraint.measure, constraint.is_upper, constraint.bound
        ('size', True, 2000000.0)
    """
    constraints = []
    for part in split_names(text):
        match = re.fullmatch(r"(\w+)\s*([<>])=?\s*([\d.]+(?:e-?\d+)?)\s*([A-Za-z%]*)", part)
        expected = "limits such as size<2MB, score_drop<0.01"
        if not match:
            raise UserError("--constraints has an invalid limit", got=part, expected=expected)
        name, sign, number, unit = match.groups()
        if name not in _MEASURES:
            hint = did_you_mean(name, _MEASURES)
            raise UserError("--constraints has an unknown measurement", got=name, expected=_MEASURES, hint=hint)
        units = _MEASURES[name].units
        if unit not in units:
            expected_units = [key or "none" for key in units]
            raise UserError(f"--constraints has a wrong unit of {name}", got=part, expected=expected_units)
        try:
            constraints.append(Constraint(part, name, sign == "<", float(number) * units[unit], unit))
        except ValueError:
            raise UserError("--constraints has an invalid limit", got=part, expected=expected) from None
    return tuple(constraints)


def select_file(constraints: Sequence[Constraint], results: Sequence[VerificationResult]) -> VerificationResult | None:
    """Return the verified TFLite file within all limits with the best score; of equal ones, the smallest.

    Returns None if there are no constraints or no file is within them.
    """
    candidates = [
        result
        for result in _filter_verified_tflite(results)
        if not any(_compute_excess(constraint, result) for constraint in constraints)
    ]
    return min(candidates, key=lambda result: (-result.score, result.bytes), default=None) if constraints else None


def no_file_fits_error(constraints: Sequence[Constraint], results: Sequence[VerificationResult]) -> GateError:
    """Return the error that no file is within the limits; it names the file that comes closest."""
    got = ", ".join(constraint.text for constraint in constraints)
    if not (verified := _filter_verified_tflite(results)):
        hint = "add a tflite() that passes verification to --exports"
        return GateError("No file meets --constraints", got=got, hint=hint)
    closest = min(verified, key=lambda result: sum(_compute_excess(constraint, result) for constraint in constraints))
    missed = [
        f"{constraint.measure} {_format_value(constraint, closest)}"
        for constraint in constraints
        if _compute_excess(constraint, closest)
    ]
    hint = f"relax the limits: {closest.format} comes closest with {', '.join(missed)}"
    return GateError("No file meets --constraints", got=got, hint=hint)


def link_best_file(selected_path: Path) -> None:
    """Create `model_best.tflite` as a link to the selected file, or as a copy if the system has no links."""
    with files.write_atomically(selected_path.parent / BEST_FILE) as draft:
        try:
            draft.symlink_to(selected_path.name)
        except OSError:
            shutil.copy(selected_path, draft)


def _filter_verified_tflite(results: Sequence[VerificationResult]) -> list[VerificationResult]:
    return [result for result in results if not result.failure_reason and result.total_ops is not None]


def _format_value(constraint: Constraint, result: VerificationResult) -> str:
    """Return the measured value of a file in the unit of the constraint."""
    measure = _MEASURES[constraint.measure]
    value = measure.get_value(result)
    return "unknown" if value is None else f"{value / measure.units[constraint.unit]:.3g}{constraint.unit}"


def _compute_excess(constraint: Constraint, result: VerificationResult) -> float:
    """Return the excess of a file over a limit as a fraction of the limit; 0 if it fits, infinite if not measured."""
    value = _MEASURES[constraint.measure].get_value(result)
    if value is None:
        return float("inf")
    excess = value - constraint.bound if constraint.is_upper else constraint.bound - value
    return max(excess, 0.0) / (abs(constraint.bound) or 1.0)
