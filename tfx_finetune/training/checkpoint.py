"""What a phase keeps on disk, so that a run which was killed at any moment goes on as if it had not been.

state.npz       weights, optimizer and history after the last complete epoch: one file, so that they agree
epoch_<n>.npz   weights of the epochs that may still be wanted
weights.npz     the phase's result; its presence says that the phase is done
history.json    the history once more, for people
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
    """What a phase did, epoch by epoch.

    Attributes:
        phase: Its name.
        metrics: A list of one value an epoch for each metric.
        best_epoch: The epoch (from 0) of the best score; -1 where none was better than the start.
        best: Its validation score and negative validation loss, which decides between equal scores.
        start: The same before the first epoch.
        kept: What the phase's result is made of, in words.
        result: Its validation score.
        trained: Numbers that were trained, of `parameters` in all.
        seconds: Time it took, the trunk's outputs included.
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
        """Epochs that are complete."""
        return len(self.metrics.get("loss", ()))


@dataclass(frozen=True)
class Checkpoint:
    """The folder of one phase."""

    folder: Path

    @classmethod
    def for_phase(cls, workdir: Path, phase: str) -> "Checkpoint":
        """That of a phase of the run in a work folder."""
        return cls(workdir / "checkpoints" / phase)

    @property
    def is_done(self) -> bool:
        """Whether the phase has its result."""
        return self._result_path.exists()

    @property
    def _result_path(self) -> Path:
        return self.folder / "weights.npz"

    def save_epoch(self, epoch: int, weights: Sequence[Any]) -> None:
        """Keeps the weights of an epoch; -1 is the start."""
        _write(self._epoch_path(epoch), weights=weights)

    def load_epoch(self, epoch: int) -> Weights:
        """Reads the weights of a kept epoch."""
        return _read_weights(self._epoch_path(epoch), "weights")

    def prune_epochs(self, epochs_to_keep: Sequence[int]) -> None:
        """Removes the weights of all epochs but the wanted ones."""
        for path in set(self.folder.glob("epoch_*.npz")) - {self._epoch_path(epoch) for epoch in epochs_to_keep}:
            path.unlink()

    def save_state(self, history: History, weights: Sequence[Any], optimizer: Sequence[Any]) -> None:
        """Keeps the state after an epoch, in place of the one before."""
        _write(self.folder / "state.npz", history, weights=weights, optimizer=optimizer)
        self._write_history(history)

    def load_state(self) -> tuple[History, Weights, Weights] | None:
        """History, weights and optimizer after the last complete epoch, if there is one."""
        path = self.folder / "state.npz"
        return (
            (_read_history(path), _read_weights(path, "weights"), _read_weights(path, "optimizer"))
            if path.exists()
            else None
        )

    def finish(self, history: History, weights: Sequence[Any]) -> None:
        """Keeps the phase's result and removes all that led to it."""
        _write(self._result_path, history, weights=weights)
        self._write_history(history)
        self.prune_epochs(())
        (self.folder / "state.npz").unlink(missing_ok=True)

    def load_result(self) -> tuple[History, Weights] | None:
        """History and result of a phase that is done."""
        return (_read_history(self._result_path), _read_weights(self._result_path, "weights")) if self.is_done else None

    def _epoch_path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch + 1}.npz"

    def _write_history(self, history: History) -> None:
        with files.write_atomically(self.folder / "history.json") as draft:
            draft.write_text(json.dumps(dataclasses.asdict(history)))


def _write(path: Path, history: History | None = None, **lists: Sequence[Any]) -> None:
    arrays: dict[str, Any] = {
        f"{name}_{i}": np.asarray(value) for name, values in lists.items() for i, value in enumerate(values)
    }
    if history:
        arrays["history"] = np.array(json.dumps(dataclasses.asdict(history)))
    with files.write_atomically(path) as draft:
        np.savez(draft, **arrays)


def _read_weights(path: Path, name: str) -> Weights:
    with np.load(path) as found:
        count = sum(key.startswith(f"{name}_") for key in found.files)
        return [found[f"{name}_{i}"] for i in range(count)]


def _read_history(path: Path) -> History:
    with np.load(path) as found:
        known: dict[str, Any] = json.loads(str(found["history"]))
    pairs: dict[str, Any] = {name: tuple(known.pop(name)) for name in ("best", "start")}
    return History(**known, **pairs)
