"""The data set that is looked after: which one it is, what a sample of it is, and which can be read."""

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
"""The tower that judges samples, by what they are."""


@dataclass(frozen=True)
class AuditedDataset:
    """A data set, surveyed.

    Attributes:
        plan: The run that it is for, of one tower.
        judge: Whether that tower is to be run.
        source: The samples.
        modality: What decodes them as they are.
        column: The column of the data that it decodes.
        table: All samples; the source's own parts are its splits, `all` where it has none.
        label: The column of the label.
        single: Whether each sample has one label.
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
        """The samples that can be read, by their place in the table."""
        return np.flatnonzero(self.table.error == "")


def open_dataset(run: Run, fix: bool = False) -> AuditedDataset:
    """Opens and surveys the data of a run.

    Args:
        run: Its backbone may be `usual`, or empty for one that is never run.
        fix: Whether it is to become one table.

    Raises:
        UserError: There is no such data, nothing of it can be read, the run has several towers, or no table holds what
            it is to become.
    """
    # What training alone needs plays no part, and may be for another modality than the data.
    bare = dataclasses.replace(run, augment="", compress="", exports="", constraints="")
    named = run.backbone not in ("", "default")
    plan, resources = open_run(bare if named else dataclasses.replace(bare, backbone=DEFAULT_BACKBONES["image"]))
    if len(plan.modalities) > 1:
        raise UserError("`data` checks one modality at a time", got=run.backbone, hint="name one backbone: --backbone=...")
    if fix and any(draft.localization for draft in plan.task_templates.values()):
        todo = "leave --fix out: data.html and findings.csv say what to mend"
        raise UserError("a cleaned table holds labels, no boxes or masks", got=run.heads, hint=todo)
    source = open_sources(plan.sources)
    if not named and (usual := DEFAULT_BACKBONES.get(infer_modality(source))):
        plan, resources = open_run(dataclasses.replace(bare, backbone=usual))
    ((tower, kind),) = plan.modalities.items()
    modality = make_raw_modality(kind, plan)
    places = assign_columns(source, {tower: modality})
    check_tower_columns(source, places)
    if fix:
        check_same_splits(source)
    draft = next(iter(plan.task_templates.values()))
    labels = dict.fromkeys(task.column for task in plan.task_templates.values())
    table = survey(
        source,
        {tower: modality},
        places,
        tuple(labels),
        localization_targets.map_localization_columns(plan.task_templates),
    )
    if not (table.error == "").any():
        shown = "; ".join(f"{file}: {why}" for file, why in table.errors[:3])
        raise UserError("no sample can be read", got=shown, hint="mend them")
    table, source = apply_label_map(table, source, resources.label_map)
    folder = plan.workdir if run.workdir else plan.workdir.with_name(f"{plan.workdir.name}-data")
    plan = dataclasses.replace(plan, workdir=folder)
    return AuditedDataset(
        plan, run.backbone != "", source, modality, places[tower], table, draft.column, draft.single_label
    )
