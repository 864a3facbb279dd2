"""The data set that is looked after: which one it is, what a sample of it is, and which can be read."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.data.fingerprints import kind_of, seen
from tfx_finetune.datasets import localization_targets
from tfx_finetune.datasets.label_map import renamed
from tfx_finetune.datasets.mixture import check_alike, check_places, open_sources
from tfx_finetune.datasets.survey import placed, survey
from tfx_finetune.run.plan import open_run
from tfx_finetune.types.components import Modality, Source
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import Table

USUAL = {"image": "efficientnet_lite0()", "audio": "speech_embedding()", "text": "e5_small()"}
"""The tower that judges samples, by what they are."""


@dataclass(frozen=True)
class Subject:
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
    judge: bool
    source: Source
    modality: Modality
    column: str
    table: Table
    label: str
    single: bool

    @property
    def rows(self) -> np.ndarray:
        """The samples that can be read, by their place in the table."""
        return np.flatnonzero(self.table.reason == "")


def subject(run: Run, fix: bool = False) -> Subject:
    """Opens and surveys the data of a run.

    Args:
        run: Its backbone may be `usual`, or empty for one that is never run.
        fix: Whether it is to become one table.

    Raises:
        UserError: There is no such data, nothing of it can be read, the run has several towers, or no table holds what
            it is to become.
    """
    if run.towers:
        todo = "say --towers= --backbone=... for one of them"
        raise UserError("data are looked after one tower at a time", received=run.towers, todo=todo)
    # What training alone needs plays no part, and may be for another modality than the data.
    bare = dataclasses.replace(run, augment="", compress="", exports="", choose="")
    named = run.backbone not in ("", "usual")
    plan, resources = open_run(bare if named else dataclasses.replace(bare, backbone=USUAL["image"]))
    if fix and any(draft.places for draft in plan.drafts.values()):
        todo = "leave --fix out: data.html and findings.csv say what to mend"
        raise UserError("a cleaned table holds labels, no boxes or masks", received=run.heads, todo=todo)
    source = open_sources(plan.sources)
    if not named and (usual := USUAL.get(kind_of(source))):
        plan, resources = open_run(dataclasses.replace(bare, backbone=usual))
    ((tower, kind),) = plan.modalities.items()
    modality = seen(kind, plan)
    places = placed(source, {tower: modality})
    check_places(source, places)
    if fix:
        check_alike(source)
    draft = next(iter(plan.drafts.values()))
    labels = dict.fromkeys(task.column for task in plan.drafts.values())
    table = survey(source, {tower: modality}, places, tuple(labels), localization_targets.columns(plan.drafts))
    if not (table.reason == "").any():
        shown = "; ".join(f"{file}: {why}" for file, why in table.bad[:3])
        raise UserError("no sample can be read", received=shown, todo="mend them")
    table, source = renamed(table, source, resources.renaming)
    folder = plan.workdir if run.workdir else plan.workdir.with_name(f"{plan.workdir.name}-data")
    plan = dataclasses.replace(plan, workdir=folder)
    return Subject(plan, run.backbone != "", source, modality, places[tower], table, draft.column, draft.single)
