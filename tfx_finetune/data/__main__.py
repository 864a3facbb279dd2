"""COMMAND: looks after a data set before it is trained on: what is broken, double, wrongly labelled or odd.

    python -m tfx_finetune.data --data=photos/
    python -m tfx_finetune.data --data=photos/ --backbone=    without a tower: quicker, wrong labels stay unseen
    python -m tfx_finetune.data --data=photos/ --fix      then: train --data=runs/photos-data/cleaned.csv

The work folder ends up with data.html (counts, statistics, findings with their pictures), findings.csv (a finding a
row, with what to do) and, with --fix, cleaned.csv: the same samples without those that cannot be used, without copies
and leaks, near copies in one group. The data itself is never touched. Exit status: 0 done, 2 an error to mend.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfx_finetune.core import command, progress
from tfx_finetune.core.config import Run, option, run_of, validate

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Care(Run):
    """Options of the command: those of a run, whose data it is, and what counts as alike."""

    backbone: str = option(
        "usual", "frozen tower that judges labels and finds outliers; usual for the modality's; empty for none"
    )
    near: float = option(
        0.0,
        "likeness from which two samples are near copies; 0 for 0.95 of pictures and sounds, 0.8 of texts",
        low=0,
        high=1,
    )
    fix: bool = option(False, "write cleaned.csv, which can be trained on")


def care(options: Care) -> "Path":
    """Examines a data set, and writes what was found.

    Args:
        options: The run whose data it is; `near` and `fix` beside it.

    Returns:
        The folder with data.html, findings.csv and, where asked for, cleaned.csv.

    Raises:
        UserError: There is no such data, or nothing of it can be read.
    """
    from tfx_finetune.data import findings as found_by
    from tfx_finetune.data.cleaned import grouped, left_out, write_cleaned
    from tfx_finetune.data.data_page import write_data_page
    from tfx_finetune.data.dataset import subject
    from tfx_finetune.data.duplicates import near
    from tfx_finetune.data.embeddings import frozen
    from tfx_finetune.data.fingerprints import look

    validate(options)
    # The data as a run would have it; then every sample that can be read once more, as it is.
    data = subject(run_of(options), options.fix)
    table, rows = data.table, data.rows
    looks = look(data.source, data.modality, data.column, table)

    # What needs no model.
    findings = [
        *found_by.of_table(table, data.label, data.single),
        *found_by.of_copies(table, data.label, rows, looks),
        *found_by.of_near(table, rows, near(looks, options.near)),
        *found_by.of_looks(rows, looks),
    ]
    group = grouped(table, findings)

    # What a frozen tower sees in them.
    judged = found_by.Frozen((), (), "no backbone: labels, outliers and features were not judged")
    if data.judge:
        points = frozen(data.plan, data.source, data.column, table)
        judged = found_by.of_frozen(table, data.label, rows, points, group, options.seed)
        findings += [*judged.findings, *found_by.of_outliers(rows, points, looks)]

    folder = data.plan.workdir
    found_by.write_findings(folder / "findings.csv", table, data.label, findings)
    write_data_page(folder / "data.html", data, looks, findings, judged)
    if options.fix:
        write_cleaned(folder / "cleaned.csv", data.source, ~left_out(findings, table), group)
    return folder


def main() -> None:
    """Runs the command."""
    command.run(_care, Care(), __doc__ or "")


def _care(options: Care) -> None:
    folder = care(options)
    progress.say(f"page: {folder / 'data.html'}\nfindings: {folder / 'findings.csv'}")
    if options.fix:
        progress.say(f"cleaned: python -m tfx_finetune.train --data={folder / 'cleaned.csv'}")


if __name__ == "__main__":
    main()
