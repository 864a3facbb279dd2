"""Sampling weights of sources, languages and classes in training.

Weights are those of `--mixture.weights`, or p ~ n^(1/T) of the sizes n (temperature sampling; Arivazhagan et al., arXiv
1907.05019), which are uniform for T = inf. Samples are drawn with replacement.
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

_WEIGHTS_FORMAT = "positive numbers by name, such as a=1, b=2"


def is_weighted(mixture: MixtureOptions) -> bool:
    """Return True if the options change the natural proportions of the sources."""
    return bool(mixture.weights or mixture.temperature != 1)


def check_mixture(mixture: MixtureOptions, sources: Collection[str]) -> None:
    """Check the options before the data is opened.

    Args:
        mixture: Options of the mixture.
        sources: Names of the sources of `--data`; empty if a column of the data names them.

    Raises:
        UserError: If weights and a temperature are given, or the weights are malformed or name other sources.
    """
    if mixture.weights and mixture.temperature != 1:
        got = "--mixture.weights, --mixture.temperature"
        raise UserError("Two options define the sampling weights", got=got, hint="use one of them")
    weights = parse_weights(mixture.weights)
    if weights and sources and mixture.column == "source":
        _check_names(weights, sources)


def parse_weights(text: str) -> dict[str, float]:
    """Parse weights by name.

    Args:
        text: Comma-separated weights such as `a=1, b=2`; may be empty.

    Raises:
        UserError: If the text is malformed, a weight is not positive, or a name occurs twice.

    Examples:
        >>> parse_weights("a=1, b=.5")
        {'a': 1.0, 'b': 0.5}
    """
    weights: dict[str, float] = {}
    for entry in text.split(",") if text.strip() else ():
        name, _, value = (part.strip() for part in entry.partition("="))
        number = float(value) if re.fullmatch(r"\d+(\.\d*)?|\.\d+", value) else 0.0
        if not name or name in weights or not number:
            raise UserError("--mixture.weights is malformed", got=text, expected=_WEIGHTS_FORMAT)
        weights[name] = number
    return weights


def compute_mixture_weights(sizes: Mapping[str, int], mixture: MixtureOptions) -> dict[str, float]:
    """Compute the fraction of each source or language in training; the fractions sum to 1.

    Args:
        sizes: Number of training samples of each source or language.
        mixture: Options of the mixture.

    Raises:
        UserError: If `--mixture.weights` does not name exactly these sources or languages.

    Examples:
        >>> compute_mixture_weights({"a": 900, "b": 100}, MixtureOptions(temperature=2.0))
        {'a': 0.75, 'b': 0.25}
    """
    if weights := parse_weights(mixture.weights):
        _check_names(weights, sizes)
    else:
        # Sizes are scaled to 0..1, so that no power of them overflows.
        max_size = max(sizes.values())
        weights = {name: (size / max_size) ** (1 / mixture.temperature) for name, size in sizes.items()}
    total = sum(weights.values())
    return {name: weights[name] / total for name in sizes}


def compute_sampling_weights(table: Table, tasks: Mapping[str, Task], run: Run) -> tuple[np.ndarray | None, int]:
    """Compute the sampling weights of training samples.

    With `--class_balanced_sampling`, all combinations of the labels of all heads are equally frequent, within each
    source or language if these have weights too.

    Args:
        table: Samples with their splits.
        tasks: Heads by name.
        run: Options of the run.

    Returns:
        The probability of each training sample to be drawn, float32 (n,), and the number of samples of an epoch (0: n).
        None and 0 if every sample is used once per epoch.

    Raises:
        UserError: If the data lacks `--mixture.column`, or if `--mixture.weights` names other values.
    """
    mixture, is_train = run.mixture, table.split == "train"
    weighted = is_weighted(mixture)
    if not weighted and not run.class_balanced_sampling:
        return None, 0
    sources = _get_source_values(table, mixture.column)[is_train] if weighted else np.full(is_train.sum(), "", object)
    columns = [table.columns[task.column][is_train] for task in tasks.values()] if run.class_balanced_sampling else []
    strata = list(zip(sources, *columns, strict=True))
    stratum_sizes, source_sizes = Counter(strata), Counter(sources.tolist())
    num_strata = Counter(source for source, *_ in stratum_sizes)
    fractions = compute_mixture_weights(source_sizes, mixture) if weighted else {"": 1.0}
    # All strata of a source have equal weights.
    weights = np.array(
        [fractions[stratum[0]] / num_strata[stratum[0]] / stratum_sizes[stratum] for stratum in strata], np.float32
    )
    largest = max(source_sizes, key=lambda name: source_sizes[name])
    num_samples = round(source_sizes[largest] / fractions[largest]) if mixture.epoch_length == "largest" else 0
    if weighted:
        text = ", ".join(f"{name} {fraction:.3f}" for name, fraction in fractions.items())
        length = num_samples or len(weights)
        progress.log(f"sampling weights by {mixture.column}: {text}; an epoch has {length} samples")
    return weights / weights.sum(), num_samples


def _get_source_values(table: Table, column: str) -> np.ndarray:
    if column not in table.columns:
        hint = f"name the sources in --data, add the column {column} to the data, or leave the options --mixture out"
        raise UserError(f"--mixture needs the column {column}, which the data lacks", hint=hint)
    values = table.columns[column]
    if (is_missing := (values == "") & (table.split == "train")).any():
        got = table.file[is_missing][0]
        raise UserError(f"{is_missing.sum()} samples have no {column}, which --mixture needs", got=got)
    return values


def _check_names(weights: Mapping[str, float], existing: Collection[str]) -> None:
    for name in weights:
        if name not in existing:
            hint = did_you_mean(name, existing)
            raise UserError("--mixture.weights has an unknown name", got=name, expected=sorted(existing), hint=hint)
    if missing := [name for name in existing if name not in weights]:
        raise UserError("--mixture.weights lacks a weight", got=", ".join(missing), expected=_WEIGHTS_FORMAT)
