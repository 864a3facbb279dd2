"""Bundles and tables that the options of a run open."""

from dataclasses import dataclass

from tfx_finetune.datasets.label_map import LabelMap
from tfx_finetune.models.add_language import LanguageExtension
from tfx_finetune.models.warm_start import InitBundle
from tfx_finetune.training.teacher import Teacher


@dataclass(frozen=True)
class Resources:
    """Bundles and tables that the options of a run open.

    Attributes:
        init_bundle: Bundle of `--init`, whose weights initialize the model; None for pretrained weights.
        teachers: Bundles of `--teacher`.
        language_extension: Language that `--add_language` adds to the bundle of `--init`; None without one.
        label_map: Table of `--label_map`; None without one.
    """

    init_bundle: InitBundle | None = None
    teachers: tuple[Teacher, ...] = ()
    language_extension: LanguageExtension | None = None
    label_map: LabelMap | None = None


NO_RESOURCES = Resources()
