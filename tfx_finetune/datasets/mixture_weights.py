"""How much of what is learned from comes from each source, or is in each language, and from each class.

Shares are those that `--mixture.weights` says; or p ~ n^(1/T) of the sizes n (temperature sampling; Arivazhagan et al.,
arXiv 1907.05019); or equal ones, to which that comes as T grows. Samples are drawn with replacement.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.config import MixtureOptions, Run
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import Task

_WEIGHTS_FORMAT = "numbers above 0, such as a=1, b=2"


def is_weighted(mixture: MixtureOptions) -> bool:
    """Whether shares are other than those that the samples have."""
    return bool(mixture.weights or mixture.temperature != 1)


def check_mixture(mixture: MixtureOptions, sources: Collection[str]) -> None:
    """Checks what is known before the data is.

    Args:
        mix: The options.
        sources: Names of `--sources`; none where the data itself says its sources.

    Raises:
        UserError: The shares are said twice, or the weights are none, or none of these sources'.
    """
    said = {"weights": mixture.weights, "temperature": mixture.temperature != 1}
    if len(given := [f"--mixture.{name}" for name, value in said.items() if value]) > 1:
        raise UserError("shares are said twice", got=", ".join(given), hint="say one of them")
    weights = parse_weights(mixture.weights)
    if weights and sources and mixture.column == "source":
        _check_names(weights, sources)


def parse_weights(text: str) -> dict[str, float]:
    """Parses `a=1, b=2`; empty for none.

    Raises:
        UserError: It is malformed, or names one twice.
    """
    found: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        name, _, value = (piece.strip() for piece in part.partition("="))
        number = float(value) if re.fullmatch(r"\d+(\.\d*)?|\.\d+", value) else 0.0
        if not name or name in found or not number:
            raise UserError("--mixture.weights is not understood", got=text, expected=_WEIGHTS_FORMAT)
        found[name] = number
    return found


def compute_mixture_weights(sizes: Mapping[str, int], mixture: MixtureOptions) -> dict[str, float]:
    """The share of each source or language, which sum to 1.

    Args:
        sizes: Training samples of each.
        mix: How they are mixed.

    Raises:
        UserError: The weights do not name all of them, and them alone.
    """
    if weights := parse_weights(mixture.weights):
        _check_names(weights, sizes)
    else:
        # Of sizes from 0 to 1, so that no power of them is too large.
        weights = {name: (size / max(sizes.values())) ** (1 / mixture.temperature) for name, size in sizes.items()}
    total = sum(weights.values())
    return {name: weights[name] / total for name in sizes}


def compute_sampling_weights(table: Table, tasks: Mapping[str, Task], run: Run) -> tuple[np.ndarray | None, int]:
    """The chance of each training sample to be drawn, (n,), and how many are drawn in an epoch.

    With `--class_balanced_sampling` all labels, those of all heads taken together, are equally frequent; where shares are said,
    too, they are so within each source or language.

    Returns:
        None and 0 where each comes once an epoch.

    Raises:
        UserError: The data does not say what `--mixture.column` asks for, or `--mixture.weights` names another source.
    """
    mix, train = run.mixture, table.split == "train"
    mixed = is_weighted(mix)
    if not mixed and not run.class_balanced_sampling:
        return None, 0
    lanes = _get_source_values(table, mix.column)[train] if mixed else np.full(train.sum(), "", object)
    columns = (
        [table.columns[task.column][train] for task in tasks.values()] if run.class_balanced_sampling else []
    )
    kinds = list(zip(lanes, *columns, strict=True))
    counts, sizes = Counter(kinds), Counter(lanes.tolist())
    labels = Counter(lane for lane, *_ in counts)
    wanted = compute_mixture_weights(sizes, mix) if mixed else {"": 1.0}
    # All kinds of a source have the same share of its own.
    chances = np.array([wanted[kind[0]] / labels[kind[0]] / counts[kind] for kind in kinds], np.float32)
    largest = max(sizes, key=lambda name: sizes[name])
    drawn = round(sizes[largest] / wanted[largest]) if mix.epoch_length == "largest" else 0
    if mixed:
        said = ", ".join(f"{name} {share:.3f}" for name, share in wanted.items())
        progress.log(f"training samples are drawn by {mix.column}: {said}; an epoch has {drawn or len(chances)}")
    return chances / chances.sum(), drawn


def _get_source_values(table: Table, column: str) -> np.ndarray:
    if column not in table.columns:
        todo = "say --sources, or leave --mix out"
        raise UserError(f"the data does not say the {column} of a sample, by which to mix", got="--mix", hint=todo)
    lanes = table.columns[column]
    if (lost := (lanes == "") & (table.split == "train")).any():
        raise UserError(f"{lost.sum()} samples have no {column}, by which to mix", got=table.file[lost][0])
    return lanes


def _check_names(weights: Mapping[str, float], existing: Collection[str]) -> None:
    for name in weights:
        if name not in existing:
            todo = did_you_mean(name, existing)
            raise UserError("--mixture.weights names what there is not", got=name, expected=sorted(existing), hint=todo)
    if lacking := [name for name in existing if name not in weights]:
        raise UserError(
            "--mixture.weights leaves some without a weight", got=", ".join(lacking), expected=_WEIGHTS_FORMAT
        )
