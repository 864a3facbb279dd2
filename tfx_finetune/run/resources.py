"""What the options of a run open: earlier bundles and tables."""

from dataclasses import dataclass

from tfx_finetune.datasets.label_map import LabelMap
from tfx_finetune.models.add_language import LanguageExtension
from tfx_finetune.models.warm_start import InitBundle
from tfx_finetune.training.teacher import Teacher


@dataclass(frozen=True)
class Resources:
    """Opened bundles and tables of a run.

    Attributes:
        init: Bundle of `--init`, whose weights the run starts from; None for pretrained weights.
        teachers: Bundles of `--teacher`.
        growth: The language that `--add_language` adds to the bundle of `--init`; None without one.
        renaming: Table of `--label_map`; None without one.
    """

    init_bundle: InitBundle | None = None
    teachers: tuple[Teacher, ...] = ()
    language_extension: LanguageExtension | None = None
    label_map: LabelMap | None = None
