"""Open the data set to audit, with the modality and the columns that the options of the run define."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.data.fingerprints import infer_modality, make_raw_modality
from tfx_finetune.datasets import localization_targets
from tfx_finetune.datasets.label_map import apply_label_map
from tfx_finetune.datasets.mixture import check_same_splits, check_tower_columns, open_sources
from tfx_finetune.datasets.survey import assign_columns, survey
from tfx_finetune.run.plan import open_run
from tfx_finetune.types.components import Modality, Source
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import Table

DEFAULT_BACKBONES = {"image": "efficientnet_lite0()", "audio": "speech_embedding()", "text": "e5_small()"}
"""Default backbone of the audit, by modality."""


@dataclass(frozen=True)
class AuditedDataset:
    """Data set to audit.

    Attributes:
        plan: Plan of the run that the data set is for; it has one tower.
        uses_backbone: bool. True if the audit computes features with the tower.
        source: Data source.
        modality: Modality that decodes the samples without preprocessing.
        column: Name of the data column that the modality decodes.
        table: Table of all samples. Its splits are those of the source, or `all` if the source has no splits.
        label_column: Name of the label column.
        single_label: bool. True if every sample has one label.
    """

    plan: Plan
    uses_backbone: bool
    source: Source
    modality: Modality
    column: str
    table: Table
    label_column: str
    single_label: bool

    @property
    def readable_rows(self) -> np.ndarray:
        """Rows of the readable samples, int (n,)."""
        return np.flatnonzero(self.table.error == "")


def open_dataset(run: Run, fix: bool = False) -> AuditedDataset:
    """Open and survey the data of a run.

    Args:
        run: Options of the run. Its backbone may be `default`, or empty for an audit without features.
        fix: bool. True if the audit writes a cleaned table. Default False.

    Raises:
        UserError: If the data does not exist, no sample can be read, the run has several towers, or `fix` is set and
            a table cannot hold the annotations.
    """
    # Options of training only are dropped: they may not fit the modality of the data.
    data_run = dataclasses.replace(run, augment="", compress="", exports="", constraints="")
    has_named_backbone = run.backbone not in ("", "default")
    first_backbone = run.backbone if has_named_backbone else DEFAULT_BACKBONES["image"]
    plan, resources = open_run(dataclasses.replace(data_run, backbone=first_backbone))
    if len(plan.modalities) > 1:
        raise UserError(
            "`data` checks one modality at a time", got=run.backbone, hint="Name one backbone: --backbone=..."
        )
    if fix and any(task.localization for task in plan.task_templates.values()):
        raise UserError(
            "--fix writes labels only; it cannot write boxes or masks",
            got=run.heads,
            hint="Remove --fix and correct the issues that data.html and issues.csv list",
        )
    source = open_sources(plan.sources)
    if not has_named_backbone and (backbone := DEFAULT_BACKBONES.get(infer_modality(source))):
        plan, resources = open_run(dataclasses.replace(data_run, backbone=backbone))
    ((tower, modality_name),) = plan.modalities.items()
    modality = make_raw_modality(modality_name, plan)
    tower_columns = assign_columns(source, {tower: modality})
    check_tower_columns(source, tower_columns)
    if fix:
        check_same_splits(source)
    tasks = plan.task_templates
    label_columns = dict.fromkeys(task.column for task in tasks.values())
    table = survey(
        source,
        {tower: modality},
        tower_columns,
        tuple(label_columns),
        localization_targets.map_localization_columns(tasks),
    )
    if not (table.error == "").any():
        errors = "; ".join(f"{file}: {reason}" for file, reason in table.errors[:3])
        raise UserError("No sample can be read", got=errors, hint="Repair or replace the files")
    table, source = apply_label_map(table, source, resources.label_map)
    first_task = next(iter(tasks.values()))
    folder = plan.workdir if run.workdir else plan.workdir.with_name(f"{plan.workdir.name}-data")
    return AuditedDataset(
        plan=dataclasses.replace(plan, workdir=folder),
        uses_backbone=run.backbone != "",
        source=source,
        modality=modality,
        column=tower_columns[tower],
        table=table,
        label_column=first_task.column,
        single_label=first_task.single_label,
    )
