"""Builds the modalities of a run."""

import dataclasses

from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import MODALITIES, Card, Modality


def modality_options(run: Run, modality: str) -> dict[str, object]:
    """The options of a modality that a run sets; those of a plug-in's keep their defaults."""
    group = getattr(run, modality, None)
    return dataclasses.asdict(group) if dataclasses.is_dataclass(group) and not isinstance(group, type) else {}


def modality(run: Run, kind: str, card: Card, **changed: object) -> Modality:
    """A modality as a run sets it, for what this card feeds; `changed` options come before the run's."""
    return MODALITIES.build(Spec(kind, (), modality_options(run, kind) | changed), card)
