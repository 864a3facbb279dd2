"""Search for hyper-parameters by trials, and write the flag file of the best trial.

    python -m tfx_finetune.tune --data=photos/
    python -m tfx_finetune.tune --data=photos/ --trials=50 --workdir=runs/photos-tune
    python -m tfx_finetune.tune --flagfile=configs/quickstart.cfg --trials=20 \\
        --space="finetune.learning_rate=log(1e-5, 1e-2), finetune.unfreeze=choice('3', '5', '7')"

Trials are compared on the validation split; the test split is not used. The features of the frozen part are computed
once for all trials. The work folder then holds best.cfg, trials.svg and trials.db. The same command resumes an
interrupted search, and a larger --trials continues it. Exit status: 0 success, 2 user error.
"""

from dataclasses import dataclass

from tfx_finetune.core import command
from tfx_finetune.core.config import Run, extract_run
from tfx_finetune.core.options import option


@dataclass(frozen=True)
class TuneOptions(Run):
    """Options of the command."""

    trials: int = option(20, "total number of trials, including earlier calls", low=1)
    space: str = option(
        "finetune.learning_rate=log(3e-5, 3e-3), frozen.learning_rate=log(3e-4, 3e-2)",
        "options to search: name=log(min, max), uniform(min, max), int(min, max) or choice('a', 'b'), ...",
    )


def tune(options: TuneOptions) -> None:
    """Run the search and print the path of the best flag file."""
    from tfx_finetune.run.plan import check
    from tfx_finetune.tune.search import parse_space, search

    space = parse_space(options.space)
    run = extract_run(options)
    workdir = check(run).workdir
    folder = workdir if run.workdir else workdir.with_name(f"{workdir.name}-tune")
    print(f"best: {search(run, space, options.trials, folder)}")


def main() -> None:
    """Run the command."""
    command.run(tune, TuneOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
