"""Find duplicates, split leakage, label errors and outliers in a data set before training.

    python -m tfx_finetune.data --data=photos/
    python -m tfx_finetune.data --data=photos/ --backbone=    no backbone: faster, without label errors and outliers
    python -m tfx_finetune.data --data=photos/ --fix          then: train --data=runs/photos-data/cleaned.csv

Writes data.html (issues with previews, counts, statistics) and issues.csv (one issue per row) to the work folder. With
--fix, also writes cleaned.csv: the same samples without unusable samples, duplicates and leakage, with near-duplicates
in one group. The data set itself is never changed. Exit status: 0 success, 2 user error.
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
    """Options of the `data` command: the options of a run, which define its data, and options of the audit."""

    backbone: str = option(
        "default",
        "frozen backbone whose features find label errors and outliers; "
        "default: a backbone for the modality; empty: none",
    )
    near_duplicate_threshold: float = option(
        0.0,
        "similarity above which two samples are near-duplicates; 0: 0.95 for images and audio, 0.8 for text",
        low=0,
        high=1,
    )
    fix: bool = option(
        False, "write cleaned.csv, a table for training without duplicates, leakage and unusable samples"
    )


def audit_data(options: DataOptions) -> "Path":
    """Audit a data set and write the issues.

    Args:
        options: Options of the run that the data set is for, and options of the audit.

    Returns:
        The folder with data.html, issues.csv and, with `fix`, cleaned.csv.

    Raises:
        UserError: If the data set does not exist or contains no readable sample.
    """
    from tfx_finetune.data import issues
    from tfx_finetune.data.cleaned import assign_groups, select_rows_to_drop, write_cleaned_table
    from tfx_finetune.data.data_page import write_data_page
    from tfx_finetune.data.dataset import open_dataset
    from tfx_finetune.data.duplicates import find_near_duplicate_pairs
    from tfx_finetune.data.embeddings import EmbeddingAnalysis, analyze_embeddings, embed_samples, find_outliers
    from tfx_finetune.data.fingerprints import compute_statistics

    validate(options)
    # The survey reads the data as a run does; the statistics read every readable sample again, without preprocessing.
    dataset = open_dataset(extract_run(options), options.fix)
    table, rows = dataset.table, dataset.readable_rows
    statistics = compute_statistics(dataset.source, dataset.modality, dataset.column, table)

    # Issues that need no model.
    near_duplicates = find_near_duplicate_pairs(statistics, options.near_duplicate_threshold)
    data_issues = [
        *issues.find_table_issues(table, dataset.label_column, dataset.single_label),
        *issues.find_duplicates(table, dataset.label_column, rows, statistics),
        *issues.find_near_duplicates(table, rows, near_duplicates),
        *issues.find_blank_and_odd_sizes(rows, statistics),
    ]
    sample_groups = assign_groups(table, data_issues)

    # Issues that the features of a frozen backbone show.
    analysis = EmbeddingAnalysis(warning="No backbone: label errors, outliers and features were not checked.")
    if dataset.uses_backbone:
        embeddings = embed_samples(dataset.plan, dataset.source, dataset.column, table)
        analysis = analyze_embeddings(table, dataset.label_column, rows, embeddings, sample_groups, options.seed)
        data_issues += [*analysis.issues, *find_outliers(rows, embeddings, statistics)]

    folder = dataset.plan.workdir
    issues.write_issues(folder / "issues.csv", table, dataset.label_column, data_issues)
    write_data_page(folder / "data.html", dataset, statistics, data_issues, analysis)
    if options.fix:
        keep_mask = ~select_rows_to_drop(data_issues, table)
        write_cleaned_table(folder / "cleaned.csv", dataset.source, keep_mask, sample_groups)
    return folder


def main() -> None:
    """Run the command."""
    command.run(_run_command, DataOptions(), __doc__ or "")


def _run_command(options: DataOptions) -> None:
    """Audit the data set and print the paths of the results."""
    folder = audit_data(options)
    progress.log(f"page: {folder / 'data.html'}\nissues: {folder / 'issues.csv'}")
    if options.fix:
        progress.log(f"train on the cleaned data: python -m tfx_finetune.train --data={folder / 'cleaned.csv'}")


if __name__ == "__main__":
    main()
