"""COMMAND: finds good values of options by trials; writes the flag file of the best run.

    python -m tfx_finetune.tune --data=photos/
    python -m tfx_finetune.tune --data=photos/ --trials=50 --workdir=runs/photos-tune
    python -m tfx_finetune.tune --flagfile=configs/quickstart.cfg --trials=20 \\
        --space="finetune.learning_rate=log(1e-5, 1e-2), finetune.unfreeze=choice('3', '5', '7')"

Trials are judged on the validation samples; the test samples play no part. The frozen part of the network is computed
once for all of them. The work folder ends up with best.cfg, trials.svg and trials.db; the same command goes on where
an interrupted search stopped, and a higher --trials adds to it.
"""

from dataclasses import dataclass

from tfx_finetune.core import command
from tfx_finetune.core.config import Run, extract_run
from tfx_finetune.core.options import option


@dataclass(frozen=True)
class TuneOptions(Run):
    """Options of the command: those of a run, and what to try."""

    trials: int = option(20, "trials in all, those of an earlier call included", low=1)
    space: str = option(
        "finetune.learning_rate=log(3e-5, 3e-3), frozen.learning_rate=log(3e-4, 3e-2)",
        "options to vary: name=log(least, most), uniform(...), int(...) or choice('a', 'b'), ...",
    )


def tune(options: TuneOptions) -> None:
    """Searches and says where the result lies."""
    from tfx_finetune.run.plan import check
    from tfx_finetune.tune.search import parse_space, search

    space = parse_space(options.space)
    run = extract_run(options)
    workdir = check(run).workdir
    folder = workdir if run.workdir else workdir.with_name(f"{workdir.name}-tune")
    print(f"best: {search(run, space, options.trials, folder)}")


def main() -> None:
    """Runs the command."""
    command.run(tune, TuneOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
