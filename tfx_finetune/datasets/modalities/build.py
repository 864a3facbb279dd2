"""Building of a run's modalities."""

from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import MODALITIES, Modality, PretrainedCfg


def build_modality(run: Run, kind: str, pretrained_cfg: PretrainedCfg, **overrides: object) -> Modality:
    """Build a modality with the options of a run.

    Args:
        run: Options of the run, such as `--image.resize`.
        kind: Name of the modality: `image`, `audio` or `text`.
        pretrained_cfg: Input size and format of the backbone.
        **overrides: Options that replace those of the run.
    """
    return MODALITIES.build(Spec(kind, (), run.modality_options(kind) | overrides), pretrained_cfg)
