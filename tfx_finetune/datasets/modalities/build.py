"""Builds the modalities of a run."""

from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import MODALITIES, Modality, PretrainedCfg


def build_modality(run: Run, kind: str, pretrained_cfg: PretrainedCfg, **changed: object) -> Modality:
    """A modality as a run sets it, for what this card feeds; `changed` options come before the run's."""
    return MODALITIES.build(Spec(kind, (), run.modality_options(kind) | changed), pretrained_cfg)
