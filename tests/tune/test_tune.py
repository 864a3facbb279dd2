"""The `tune` command: the syntax of the search space, and searches that are resumed."""

import optuna
import pytest

from tests.helpers.commands import get_error, run_command
from tests.helpers.small_data import complaint
from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.tune.search import parse_space

SPACE = "--space=finetune.learning_rate=log(1e-6, 1e-1), finetune.optimizer=choice('sgd', 'adamw')"


def test_a_space_names_ranges_of_options():
    """Names are dotted; a range is one of four functions."""
    text = "finetune.learning_rate=log(1e-5, 1e-2), finetune.unfreeze=choice('3', 'all'), batch_size = int(8, 64)"
    assert {name: str(spec) for name, spec in parse_space(text).items()} == {
        "finetune.learning_rate": "log(1e-05, 0.01)",
        "finetune.unfreeze": "choice('3', 'all')",
        "batch_size": "int(8, 64)",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--space is empty. Say --space='name=log(min, max), uniform(min, max), int(min, max) or choice("),
        ("finetune.learning_rat=log(1e-5, 1e-2)", "Did you mean finetune.learning_rate?"),
        ("finetune.learning_rate=log(0, 1)", "Invalid range of finetune.learning_rate: log(0, 1)."),
        ("finetune.learning_rate=log(1, 0.5)", "Invalid range of finetune.learning_rate"),
        ("finetune.learning_rate=lgo(1, 2)", "Invalid range of finetune.learning_rate"),
        ("finetune.unfreeze=choice()", "Invalid range of finetune.unfreeze"),
        ("finetune.learning_rate", "The text is not a component spec"),
    ],
)
def test_errors_in_the_space(text, message):
    """An error names the value and the valid syntax."""
    assert message in complaint(parse_space, text)


@pytest.mark.slow
def test_a_resumed_search_writes_the_best_run(trained_run, tmp_path):
    """One trial, then two more: the first has the options of the run, and best.cfg has the best options."""
    flags = (*trained_run.flags, "--frozen.epochs=0", "--finetune.epochs=2", SPACE, f"--workdir={tmp_path / 'search'}")
    first = run_command("tune", *flags, "--trials=1")
    assert first.returncode == 0, first.stderr
    second = run_command("tune", *flags, "--trials=3")
    assert second.returncode == 0, second.stderr
    assert "trial 1 of 3" not in second.stderr
    assert "trial 3 of 3" in second.stderr
    storage = f"sqlite:///{tmp_path / 'search' / 'trials.db'}"
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert len(study.trials) == 3
    assert study.trials[0].params == {"finetune.learning_rate": 0.01, "finetune.optimizer": "adamw"}
    assert (tmp_path / "search" / "trials.svg").read_text().count("<svg") == 1
    run, _ = flagfile.parse_flags(["train", f"--flagfile={tmp_path / 'search' / 'best.cfg'}"], Run())
    assert run.finetune.learning_rate == pytest.approx(study.best_params["finetune.learning_rate"])
    assert run.finetune.optimizer == study.best_params["finetune.optimizer"]
    assert f"best: {tmp_path / 'search' / 'best.cfg'}" in second.stdout


def test_a_search_without_validation_samples_is_an_error(trained_run, tmp_path):
    """Trials are compared by their validation scores."""
    arguments = (*trained_run.flags, SPACE, "--split.val=0", f"--workdir={tmp_path / 'search'}")
    assert "`tune` needs validation samples, and the validation split is empty. Raise --split.val." in get_error(
        "tune", *arguments
    )
