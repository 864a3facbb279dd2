"""Checkpoints of a phase: a run that was killed at any time resumes without a difference in its result.

state.npz       weights, optimizer and history after the last complete epoch, in one file, so that they agree
epoch_<n>.npz   weights of the epochs that may still be selected
weights.npz     result of the phase; the phase is done if this file exists
history.json    copy of the history, for people and scripts
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.core import files

Weights = list[np.ndarray]


@dataclass
class History:
    """Metrics and result of a phase.

    Attributes:
        phase: Name of the phase.
        metrics: One value per epoch, by metric.
        best_epoch: Epoch, from 0, with the best validation score; -1 if no epoch is better than the initial weights.
        best: Best validation score and its negative validation loss, which breaks ties.
        start: Validation score and negative validation loss before the first epoch.
        selection: Description of the weights that the phase returns.
        val_score: Validation score of these weights.
        trained_parameters: Number of trained parameters.
        parameters: Number of all parameters.
        seconds: Duration in seconds, including the features of the frozen part.
    """

    phase: str
    metrics: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int = -1
    best: tuple[float, float] = (-math.inf, -math.inf)
    start: tuple[float, float] = (-math.inf, -math.inf)
    selection: str = ""
    val_score: float = -math.inf
    trained_parameters: int = 0
    parameters: int = 0
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """Number of complete epochs."""
        return len(self.metrics.get("loss", ()))


@dataclass(frozen=True)
class Checkpoint:
    """Folder with the checkpoints of one phase."""

    folder: Path

    @classmethod
    def for_phase(cls, workdir: Path, phase: str) -> "Checkpoint":
        """Return the checkpoint of a phase of the run in `workdir`."""
        return cls(workdir / "checkpoints" / phase)

    @property
    def is_done(self) -> bool:
        """True if the phase has its result."""
        return self._result_path.exists()

    @property
    def _result_path(self) -> Path:
        return self.folder / "weights.npz"

    def save_epoch(self, epoch: int, weights: Sequence[Any]) -> None:
        """Save the weights of an epoch, counted from 0."""
        _write(self._epoch_path(epoch), weights=weights)

    def load_epoch(self, epoch: int) -> Weights:
        """Read the weights of an epoch that was not pruned."""
        return _read_arrays(self._epoch_path(epoch), "weights")

    def prune_epochs(self, epochs_to_keep: Sequence[int]) -> None:
        """Delete the weights of all epochs except `epochs_to_keep`."""
        for path in set(self.folder.glob("epoch_*.npz")) - {self._epoch_path(epoch) for epoch in epochs_to_keep}:
            path.unlink()

    def save_state(self, history: History, weights: Sequence[Any], optimizer_variables: Sequence[Any]) -> None:
        """Save the state after an epoch; it replaces the state of the previous epoch."""
        _write(self.folder / "state.npz", history, weights=weights, optimizer=optimizer_variables)
        self._write_history(history)

    def load_state(self) -> tuple[History, Weights, Weights] | None:
        """Read history, weights and optimizer variables after the last complete epoch; None before the first one."""
        path = self.folder / "state.npz"
        if not path.exists():
            return None
        return _read_history(path), _read_arrays(path, "weights"), _read_arrays(path, "optimizer")

    def finish(self, history: History, weights: Sequence[Any]) -> None:
        """Save the result of the phase and delete its epochs and state."""
        _write(self._result_path, history, weights=weights)
        self._write_history(history)
        self.prune_epochs(())
        (self.folder / "state.npz").unlink(missing_ok=True)

    def load_result(self) -> tuple[History, Weights] | None:
        """Read history and weights of a phase that is done; None if it is not."""
        if not self.is_done:
            return None
        return _read_history(self._result_path), _read_arrays(self._result_path, "weights")

    def _epoch_path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch + 1}.npz"

    def _write_history(self, history: History) -> None:
        with files.write_atomically(self.folder / "history.json") as draft:
            draft.write_text(json.dumps(dataclasses.asdict(history)))


def _write(path: Path, history: History | None = None, **lists: Sequence[Any]) -> None:
    """Write lists of arrays, and the history as JSON, to an .npz file."""
    arrays: dict[str, Any] = {
        f"{name}_{i}": np.asarray(value) for name, values in lists.items() for i, value in enumerate(values)
    }
    if history:
        arrays["history"] = np.array(json.dumps(dataclasses.asdict(history)))
    with files.write_atomically(path) as draft:
        np.savez(draft, **arrays)


def _read_arrays(path: Path, name: str) -> Weights:
    """Read one list of arrays of an .npz file."""
    with np.load(path) as arrays:
        count = sum(key.startswith(f"{name}_") for key in arrays.files)
        return [arrays[f"{name}_{i}"] for i in range(count)]


def _read_history(path: Path) -> History:
    with np.load(path) as arrays:
        fields: dict[str, Any] = json.loads(str(arrays["history"]))
    # JSON has no tuples.
    ranking_keys: dict[str, Any] = {name: tuple(fields.pop(name)) for name in ("best", "start")}
    return History(**fields, **ranking_keys)
