"""The values of options that give the best validation score, found by trials."""

import dataclasses
import functools
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfx_finetune.core import config, files, flagfile, progress
from tfx_finetune.core.options import iter_options, replace_options
from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.extras import import_package
from tfx_finetune.core.spec import Spec, parse_named_specs
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.network import Network
from tfx_finetune.report.plots import plot_trials
from tfx_finetune.run.plan import open_run
from tfx_finetune.run.setup import set_up, training_context
from tfx_finetune.training.phase_data import precompute_features
from tfx_finetune.training.trainer import fit_phase

_RANGE_SYNTAX = "name=log(least, most), uniform(least, most), int(least, most) or choice('a', 'b', ...)"
# Startup trials are drawn at random, so that the median that prunes stands on something.
_STARTUP_TRIALS = 5


def parse_space(text: str) -> dict[str, Spec]:
    """Parses `finetune.learning_rate=log(1e-5, 1e-2), finetune.unfreeze=choice('3', '5')` into a range for each option.

    Raises:
        UserError: It is malformed, or names an option that a run does not have.
    """
    dotted = re.sub(r"([\w.]+)(\s*=)", lambda found: found[1].replace(".", "__") + found[2], text)
    space = {name.replace("__", "."): spec for name, spec in parse_named_specs(dotted, "").items()}
    known = [name for name, *_ in iter_options(Run())]
    if not space:
        raise UserError("no space given", hint=f"say --space='{_RANGE_SYNTAX}'")
    for name, spec in space.items():
        if name not in known:
            todo = did_you_mean(name, known)
            raise UserError("unknown option in --space", got=name or text, expected=_RANGE_SYNTAX, hint=todo)
        number = all(isinstance(value, (int, float)) for value in spec.args)
        two = len(spec.args) == 2 and number and spec.args[0] < spec.args[1]
        good = {"choice": bool(spec.args), "uniform": two, "int": two, "log": two and spec.args[0] > 0}
        if spec.kwargs or not good.get(spec.name, False):
            raise UserError(f"not a range of {name}", got=spec, expected=_RANGE_SYNTAX)
    return space


def search(run: Run, space: dict[str, Spec], trials: int, folder: Path) -> Path:
    """Runs trials until there are so many, and writes the best one's options.

    Trials are proposed by a tree-structured Parzen estimator and broken off where they fall behind the median (Optuna,
    arXiv 1907.10902). The first one is the run as it is. All are kept in `<folder>/trials.db`; a search that was
    interrupted goes on there.

    Args:
        run: The options that stay.
        space: Range of each option that does not.
        trials: How many, those of an earlier call included.
        folder: The search's work folder.

    Returns:
        The flag file of the best trial.

    Raises:
        UserError: Optuna is missing, an option is wrong, or there are no validation samples.
    """
    optuna = import_package("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=_make_study_name(run, space),
        storage=f"sqlite:///{files.make_writable_folder(folder, 'work folder') / 'trials.db'}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, n_warmup_steps=run.frozen.epochs),
    )
    for broken in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(broken.number, state=optuna.trial.TrialState.FAIL)
    if not study.trials:
        study.enqueue_trial(_initial_params(run, space), skip_if_exists=True)
    prepared = functools.lru_cache(maxsize=1)(_set_up_trials)
    while (done := _count_finished(study)) < trials:
        # Seeded by what is done, so that a search that goes on proposes what it would have proposed.
        study.sampler = optuna.samplers.TPESampler(seed=run.seed + done, n_startup_trials=_STARTUP_TRIALS)
        study.optimize(lambda trial: _run_trial(trial, run, space, folder / "trial", prepared), n_trials=1)
        last = study.trials[-1]
        shown = ", ".join(f"{name}={_format_value(value)}" for name, value in last.params.items())
        outcome = f"{last.value:.4f}" if last.state.name == "COMPLETE" else last.state.name.lower()
        progress.log(f"trial {done + 1} of {trials}: {outcome}  {shown}  (best {study.best_value:.4f})")
    best = replace_options(run, study.best_params | {"workdir": str(folder / "run")})
    path = folder / "best.cfg"
    with files.write_atomically(path) as draft:
        opening = f"Validation score {study.best_value:.4f}, the best of {trials} trials."
        flagfile.write_flagfile(best, draft, f"{opening}\n{flagfile.format_command(path)}")
    complete = [trial for trial in study.trials if trial.value is not None]
    with files.write_atomically(folder / "trials.svg") as draft:
        draft.write_text(plot_trials([(trial.number + 1, float(trial.value or 0), trial.params) for trial in complete]))
    return path


def _set_up_trials(run: Run) -> tuple[Data, Network, list]:
    """What trials share that differ in their phases alone."""
    if run.strategy != "joint":
        todo = "tune the joint run, and give train what it finds"
        raise UserError("trials train languages together", got=f"--strategy={run.strategy}", hint=todo)
    plan, resources = open_run(run)
    data, network, _ = set_up(plan, resources)
    if not data.table.size("val"):
        raise UserError("trials are judged by validation samples, and there are none", hint="raise --split.val")
    return data, network, network.model.get_weights()


def _run_trial(trial: Any, run: Run, space: dict[str, Spec], folder: Path, set_up_trials: Callable) -> float:
    """Trains with the proposed options and returns the validation score of what came out."""
    shutil.rmtree(folder, ignore_errors=True)
    tried = replace_options(run, {name: _suggest(trial, name, spec) for name, spec in space.items()})
    plan, resources = open_run(dataclasses.replace(tried, workdir=str(folder)))
    data, network, start = set_up_trials(_strip_phase_options(tried, run))
    network.model.set_weights(start)
    before, score = 0, 0.0

    def watch(phase: str, epoch: int, found: float) -> None:
        trial.report(found, before + epoch)
        if trial.should_prune():
            raise import_package("optuna", "tune").TrialPruned

    context = training_context(plan, resources)
    precompute_features(network, data, context)
    for name, phase in plan.phases.items():
        score = fit_phase(network, name, phase, data, context, watch).val_score
        before += phase.epochs
    shutil.rmtree(folder, ignore_errors=True)
    return score


def _strip_phase_options(trial_run: Run, run: Run) -> Run:
    """What is prepared for a trial: the folder plays no part in it, nor do phases, apart from adapters in the graph."""

    def phase(name: str) -> Phase:
        old, new = getattr(run, name), getattr(trial_run, name)
        unfreeze = new.unfreeze if new.adapter else old.unfreeze
        return dataclasses.replace(old, adapter=new.adapter, unfreeze=unfreeze)

    return dataclasses.replace(trial_run, frozen=phase("frozen"), finetune=phase("finetune"), workdir="")


def _suggest(trial: Any, name: str, spec: Spec) -> Any:
    if spec.name == "choice":
        return trial.suggest_categorical(name, spec.args)
    if spec.name == "int":
        return trial.suggest_int(name, *spec.args)
    return trial.suggest_float(name, *spec.args, log=spec.name == "log")


def _initial_params(run: Run, space: dict[str, Spec]) -> dict[str, Any]:
    """The run's own values where they are in the space."""
    values = {name: value for name, _, value in iter_options(run)}
    inside = {
        name: values[name] in spec.args if spec.name == "choice" else spec.args[0] <= values[name] <= spec.args[1]
        for name, spec in space.items()
    }
    return {name: values[name] for name in space if inside[name]}


def _make_study_name(run: Run, space: dict[str, Spec]) -> str:
    """A study goes on for the same options alone."""
    free = {*space, "workdir", "cache.dir", "cache.enabled", "cache.max_bytes"}
    fixed = [f"{name}={value}" for name, _, value in iter_options(run) if name not in free]
    text = "\n".join([*fixed, *(f"{name} in {spec}" for name, spec in sorted(space.items()))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _count_finished(study: Any) -> int:
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials)


def _format_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
