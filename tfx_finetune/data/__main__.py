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
from tfx_finetune.core.config import Run, extract_run
from tfx_finetune.core.options import option, validate

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class DataOptions(Run):
    """Options of the command: those of a run, whose data it is, and what counts as alike."""

    backbone: str = option(
        "default", "frozen tower that judges labels and finds outliers; usual for the modality's; empty for none"
    )
    near_duplicate_threshold: float = option(
        0.0,
        "likeness from which two samples are near copies; 0 for 0.95 of pictures and sounds, 0.8 of texts",
        low=0,
        high=1,
    )
    fix: bool = option(False, "write cleaned.csv, which can be trained on")


def audit_data(options: DataOptions) -> "Path":
    """Examines a data set, and writes what was found.

    Args:
        options: The run whose data it is; `near` and `fix` beside it.

    Returns:
        The folder with data.html, findings.csv and, where asked for, cleaned.csv.

    Raises:
        UserError: There is no such data, or nothing of it can be read.
    """
    from tfx_finetune.data import findings as found_by
    from tfx_finetune.data.cleaned import assign_groups, select_rows_to_drop, write_cleaned_table
    from tfx_finetune.data.data_page import write_data_page
    from tfx_finetune.data.dataset import open_dataset
    from tfx_finetune.data.duplicates import find_near_duplicate_pairs
    from tfx_finetune.data.embeddings import embed_samples
    from tfx_finetune.data.fingerprints import compute_statistics

    validate(options)
    # The data as a run would have it; then every sample that can be read once more, as it is.
    data = open_dataset(extract_run(options), options.fix)
    table, rows = data.table, data.readable_rows
    looks = compute_statistics(data.source, data.modality, data.column, table)

    # What needs no model.
    findings = [
        *found_by.find_table_issues(table, data.label_column, data.single_label),
        *found_by.find_duplicates(table, data.label_column, rows, looks),
        *found_by.find_near_duplicates(table, rows, find_near_duplicate_pairs(looks, options.near_duplicate_threshold)),
        *found_by.find_blank_and_odd_sizes(rows, looks),
    ]
    group = assign_groups(table, findings)

    # What a frozen tower sees in them.
    judged = found_by.EmbeddingFindings((), (), "no backbone: labels, outliers and features were not judged")
    if data.uses_backbone:
        points = embed_samples(data.plan, data.source, data.column, table)
        judged = found_by.analyze_embeddings(table, data.label_column, rows, points, group, options.seed)
        findings += [*judged.findings, *found_by.find_outliers(rows, points, looks)]

    folder = data.plan.workdir
    found_by.write_findings(folder / "findings.csv", table, data.label_column, findings)
    write_data_page(folder / "data.html", data, looks, findings, judged)
    if options.fix:
        write_cleaned_table(folder / "cleaned.csv", data.source, ~select_rows_to_drop(findings, table), group)
    return folder


def main() -> None:
    """Runs the command."""
    command.run(_run, DataOptions(), __doc__ or "")


def _run(options: DataOptions) -> None:
    folder = audit_data(options)
    progress.log(f"page: {folder / 'data.html'}\nfindings: {folder / 'findings.csv'}")
    if options.fix:
        progress.log(f"cleaned: python -m tfx_finetune.train --data={folder / 'cleaned.csv'}")


if __name__ == "__main__":
    main()
