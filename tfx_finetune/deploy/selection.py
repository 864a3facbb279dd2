"""The file that fits where it is to run: --choose="size<2MB, drop<0.01"."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfx_finetune.core import files
from tfx_finetune.core.errors import GateError, UserError, did_you_mean
from tfx_finetune.deploy.checks import Check
from tfx_finetune.types.deployment import Limit

BEST = "model_best.tflite"
_SIZES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_TIMES = {"ms": 1.0, "s": 1e3}
_ONE = {"": 1.0, "%": 0.01}


@dataclass(frozen=True)
class _Measure:
    """What can be limited: how it is read from a check, and its units."""

    of: Callable[[Check], float | None]
    units: Mapping[str, float]


_MEASURES = {
    "size": _Measure(lambda check: check.bytes, _SIZES),
    "zipped": _Measure(lambda check: check.zipped, _SIZES),
    "memory": _Measure(lambda check: None if check.memory is None else 1e6 * check.memory, _SIZES),
    "latency": _Measure(lambda check: check.latency, _TIMES),
    "latency_one": _Measure(lambda check: check.latency_one, _TIMES),
    "drop": _Measure(lambda check: check.drop, _ONE),
    "score": _Measure(lambda check: check.score, _ONE),
    "agreement": _Measure(lambda check: check.agreement, _ONE),
    "difference": _Measure(lambda check: check.difference, _ONE),
}


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Reads the conditions of `--choose`.

    Args:
        text: Such as `size<2MB, drop<0.01, latency_one<20ms`; `<` and `<=` mean the same, so do `>` and `>=`.

    Raises:
        UserError: It names no measure, or a limit in no unit of it.
    """
    limits = []
    for part in filter(None, map(str.strip, text.split(","))):
        found = re.fullmatch(r"(\w+)\s*([<>])=?\s*([\d.]+(?:e-?\d+)?)\s*([A-Za-z%]*)", part)
        allowed = "conditions such as size<2MB, drop<0.01"
        if not found:
            raise UserError("--choose is not understood", received=part, allowed=allowed)
        name, sign, number, unit = found.groups()
        if name not in _MEASURES:
            todo = did_you_mean(name, _MEASURES)
            raise UserError("--choose knows no such measure", received=name, allowed=_MEASURES, todo=todo)
        units = _MEASURES[name].units
        if unit not in units:
            raise UserError(f"--choose wants a unit of {name}", received=part, allowed=[key or "none" for key in units])
        try:
            limits.append(Limit(part, name, sign == "<", float(number) * units[unit], unit))
        except ValueError:
            raise UserError("--choose is not understood", received=part, allowed=allowed) from None
    return tuple(limits)


def best(limits: Sequence[Limit], checks: Sequence[Check]) -> Check | None:
    """The verified TFLite file within all limits that scores best, and of those the smallest; None where none is."""
    fitting = [check for check in _able(checks) if not any(_excess(limit, check) for limit in limits)]
    return min(fitting, key=lambda check: (-check.score, check.bytes), default=None) if limits else None


def nothing_fits(limits: Sequence[Limit], checks: Sequence[Check]) -> GateError:
    """What is said where no file is within the limits: which comes closest."""
    received = ", ".join(limit.text for limit in limits)
    if not (able := _able(checks)):
        return GateError("no file fits", received=received, todo="add a tflite() to --exports that passes verification")
    closest = min(able, key=lambda check: sum(_excess(limit, check) for limit in limits))
    missed = [f"{limit.measure} {_shown(limit, closest)}" for limit in limits if _excess(limit, closest)]
    return GateError("no file fits", received=received, todo=f"{closest.format} comes closest with {', '.join(missed)}")


def link(chosen: Path) -> None:
    """Puts the chosen file's name `model_best.tflite` beside it, as a link where the system has them."""
    with files.atomic(chosen.parent / BEST) as draft:
        try:
            draft.symlink_to(chosen.name)
        except OSError:
            shutil.copy(chosen, draft)


def _able(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if not check.reason and check.operators is not None]


def _shown(limit: Limit, check: Check) -> str:
    """What a file has of a measure, in the unit that was asked in."""
    measure = _MEASURES[limit.measure]
    value = measure.of(check)
    return "unknown" if value is None else f"{value / measure.units[limit.unit]:.3g}{limit.unit}"


def _excess(limit: Limit, check: Check) -> float:
    """By which share of the bound a file misses a limit; 0 where it fits, infinite where it was not measured."""
    value = _MEASURES[limit.measure].of(check)
    if value is None:
        return float("inf")
    over = value - limit.bound if limit.most else limit.bound - value
    return max(over, 0.0) / (abs(limit.bound) or 1.0)
