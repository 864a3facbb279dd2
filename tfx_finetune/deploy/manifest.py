"""The manifest of a bundle."""

import datetime
import importlib.metadata
import platform
from typing import Any

from tfx_finetune.core import hardware
from tfx_finetune.datasets.modalities.build import modality_options
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.deploy.pack import describe
from tfx_finetune.evaluation import slices
from tfx_finetune.models.layer_names import parts
from tfx_finetune.models.network import Network
from tfx_finetune.run.load_data import specs_of
from tfx_finetune.types.components import SPLITS
from tfx_finetune.types.plan import Plan

_PACKAGES = ("tfx_finetune", "tensorflow", "keras", "ai-edge-litert", "numpy")


def manifest(plan: Plan, data: Data, network: Network) -> dict[str, Any]:
    """What a bundle says about itself, apart from its files."""
    specs = specs_of(plan, data.table)
    heads = {
        head: {
            "task": str(specs[head]),
            "labels": list(task.labels.names),
            "counts": list(task.labels.counts),
            "samples": task.labels.samples,
            "names": {language: list(names) for language, names in task.labels.translations.items()},
        }
        for head, task in network.tasks.items()
    }
    towers = {
        tower: describe(kind, modality_options(plan.run, kind), network.backbones[tower].card)
        for tower, kind in plan.modalities.items()
    }
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "heads": heads,
        "backbones": {tower: str(spec) for tower, spec in plan.towers.items()},
        "fusion": plan.run.fusion if plan.fusion else "",
        "compress": plan.run.compress,
        "init": plan.run.init,
        "teacher": plan.run.teacher,
        "plugins": plan.run.plugins,
        "towers": towers,
        "network": parts(network),
        "data": {"source": plan.source} | {split: data.table.size(split) for split in SPLITS},
        "tokens": slices.tokens(data),
        "versions": environment(),
    }


def environment() -> dict[str, str]:
    """Versions and machine."""
    found = hardware.detect()
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    machine = {"device": found.device, "threads": str(found.threads), "precision": found.precision}
    return {"python": platform.python_version(), **versions, **machine}
