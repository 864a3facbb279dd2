"""Hyper-parameter search with Optuna."""

import dataclasses
import functools
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfx_finetune.core import files, flagfile, progress
from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.extras import import_package
from tfx_finetune.core.options import iter_options, replace_options
from tfx_finetune.core.spec import Spec, parse_named_specs
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.network import Network
from tfx_finetune.report.plots import plot_trials
from tfx_finetune.run.plan import open_run
from tfx_finetune.run.setup import set_up, training_context
from tfx_finetune.training.phase_data import precompute_features
from tfx_finetune.training.trainer import fit_phase

_RANGE_SYNTAX = "name=log(min, max), uniform(min, max), int(min, max) or choice('a', 'b', ...)"
# Random trials at the start give the pruner a median to compare with.
_STARTUP_TRIALS = 5


def parse_space(text: str) -> dict[str, Spec]:
    """Parse the search space into a range for each option.

    Raises:
        UserError: If the text is malformed, or names an option that a run does not have.

    Examples:
        >>> parse_space("finetune.learning_rate=log(1e-5, 1e-2), batch_size=choice(8, 16)")
        {'finetune.learning_rate': log(1e-05, 0.01), 'batch_size': choice(8, 16)}
    """
    without_dots = re.sub(r"([\w.]+)(\s*=)", lambda match: match[1].replace(".", "__") + match[2], text)
    space = {name.replace("__", "."): spec for name, spec in parse_named_specs(without_dots, "").items()}
    names = [name for name, *_ in iter_options(Run())]
    if not space:
        raise UserError("--space is empty", hint=f"say --space='{_RANGE_SYNTAX}'")
    for name, spec in space.items():
        if name not in names:
            hint = did_you_mean(name, names)
            raise UserError("Unknown option in --space", got=name or text, expected=_RANGE_SYNTAX, hint=hint)
        is_numeric = all(isinstance(value, (int, float)) for value in spec.args)
        is_range = len(spec.args) == 2 and is_numeric and spec.args[0] < spec.args[1]
        is_valid = {"choice": bool(spec.args), "uniform": is_range, "int": is_range}
        is_valid["log"] = is_range and spec.args[0] > 0
        if spec.kwargs or not is_valid.get(spec.name, False):
            raise UserError(f"Invalid range of {name}", got=spec, expected=_RANGE_SYNTAX)
    return space


def search(run: Run, space: dict[str, Spec], trials: int, folder: Path) -> Path:
    """Run trials and write the options of the best one.

    A tree-structured Parzen estimator proposes the trials; the median rule prunes them (Optuna, arXiv 1907.10902). The
    first trial is the run as it is. `<folder>/trials.db` keeps all trials, so that an interrupted search resumes.

    Args:
        run: Options that are not searched.
        space: Range of each searched option.
        trials: Total number of trials, including earlier calls.
        folder: Work folder of the search.

    Returns:
        Path of the flag file of the best trial.

    Raises:
        UserError: If Optuna is missing, an option is invalid, or there are no validation samples.
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
    for interrupted in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(interrupted.number, state=optuna.trial.TrialState.FAIL)
    if not study.trials:
        study.enqueue_trial(_initial_params(run, space), skip_if_exists=True)
    set_up_trials = functools.lru_cache(maxsize=1)(_set_up_trials)
    while (finished := _count_finished(study)) < trials:
        # The seed depends on the number of finished trials, so that a resumed search proposes the same trials.
        study.sampler = optuna.samplers.TPESampler(seed=run.seed + finished, n_startup_trials=_STARTUP_TRIALS)
        study.optimize(lambda trial: _run_trial(trial, run, space, folder / "trial", set_up_trials), n_trials=1)
        last = study.trials[-1]
        params = ", ".join(f"{name}={_format_value(value)}" for name, value in last.params.items())
        outcome = f"{last.value:.4f}" if last.state.name == "COMPLETE" else last.state.name.lower()
        progress.log(f"trial {finished + 1} of {trials}: {outcome}  {params}  (best {study.best_value:.4f})")
    best = replace_options(run, study.best_params | {"workdir": str(folder / "run")})
    path = folder / "best.cfg"
    with files.write_atomically(path) as draft:
        comment = f"Validation score {study.best_value:.4f}, the best of {trials} trials."
        flagfile.write_flagfile(best, draft, f"{comment}\n{flagfile.format_command(path)}")
    complete = [trial for trial in study.trials if trial.value is not None]
    with files.write_atomically(folder / "trials.svg") as draft:
        draft.write_text(plot_trials([(trial.number + 1, float(trial.value or 0), trial.params) for trial in complete]))
    return path


def _set_up_trials(run: Run) -> tuple[Data, Network, list]:
    """Return the data, the network and its initial weights, which trials share that differ only in their phases."""
    if run.strategy != "joint":
        hint = "tune the run with --strategy=joint, and use the options in the other run"
        raise UserError("`tune` needs --strategy=joint", got=f"--strategy={run.strategy}", hint=hint)
    plan, resources = open_run(run)
    data, network, _ = set_up(plan, resources)
    if not data.table.size("val"):
        raise UserError("`tune` needs validation samples, and the validation split is empty", hint="raise --split.val")
    return data, network, network.model.get_weights()


def _run_trial(trial: Any, run: Run, space: dict[str, Spec], folder: Path, set_up_trials: Callable) -> float:
    """Train with the options of a trial and return the validation score."""
    shutil.rmtree(folder, ignore_errors=True)
    trial_run = replace_options(run, {name: _suggest(trial, name, spec) for name, spec in space.items()})
    plan, resources = open_run(dataclasses.replace(trial_run, workdir=str(folder)))
    data, network, start = set_up_trials(_strip_phase_options(trial_run, run))
    network.model.set_weights(start)
    first_epoch, score = 0, 0.0

    def report_epoch(phase: str, epoch: int, val_score: float) -> None:
        trial.report(val_score, first_epoch + epoch)
        if trial.should_prune():
            raise import_package("optuna", "tune").TrialPruned

    context = training_context(plan, resources)
    precompute_features(network, data, context)
    for name, phase in plan.phases.items():
        score = fit_phase(network, name, phase, data, context, report_epoch).val_score
        first_epoch += phase.epochs
    shutil.rmtree(folder, ignore_errors=True)
    return score


def _strip_phase_options(trial_run: Run, run: Run) -> Run:
    """Return the options that determine data and network: the trial's, without work folder and most phase options.

    Adapters change the network, so that adapters and their groups stay.
    """

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
    """Return the values of the run that are inside the search space."""
    values = {name: value for name, _, value in iter_options(run)}
    is_inside = {
        name: values[name] in spec.args if spec.name == "choice" else spec.args[0] <= values[name] <= spec.args[1]
        for name, spec in space.items()
    }
    return {name: values[name] for name in space if is_inside[name]}


def _make_study_name(run: Run, space: dict[str, Spec]) -> str:
    """Return the name of the study, a digest of the fixed options and the space: only the same search resumes."""
    free = {*space, "workdir", "cache.dir", "cache.enabled", "cache.max_bytes"}
    fixed = [f"{name}={value}" for name, _, value in iter_options(run) if name not in free]
    text = "\n".join([*fixed, *(f"{name} in {spec}" for name, spec in sorted(space.items()))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _count_finished(study: Any) -> int:
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials)


def _format_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
