"""Builds the manifest of a bundle; `core/manifest.py` reads it."""

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from tfx_finetune.core import hardware
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.deploy.pack import describe_tower
from tfx_finetune.evaluation import slices
from tfx_finetune.models.layer_names import list_layer_names
from tfx_finetune.models.network import Network
from tfx_finetune.types.components import SPLITS
from tfx_finetune.types.plan import Plan

_PACKAGES = ("tfx_finetune", "tensorflow", "keras", "ai-edge-litert", "numpy")


def make_manifest(plan: Plan, data: Data, network: Network) -> dict[str, Any]:
    """Return the manifest of a run's bundle, without the entries of its files."""
    heads = {
        head: {
            "task": str(data.head_specs[head]),
            "labels": list(task.labels.names),
            "counts": list(task.labels.counts),
            "samples": task.labels.num_samples,
            "translations": {language: list(names) for language, names in task.labels.translations.items()},
        }
        for head, task in network.tasks.items()
    }
    towers = {
        tower: describe_tower(kind, plan.run.modality_options(kind), network.backbones[tower].pretrained_cfg)
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
        "layer_names": list_layer_names(network),
        "data": {"source": plan.source} | {split: data.table.size(split) for split in SPLITS},
        "tokenizer_fertility": slices.measure_tokenizer_fertility(data),
        "versions": describe_environment(),
    }


def describe_environment() -> dict[str, str]:
    """Return the versions of Python and of the main packages, and the properties of the machine."""
    detected = hardware.detect()
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    machine = {"device": detected.device, "threads": str(detected.threads), "precision": detected.precision}
    return {"python": platform.python_version(), **versions, **machine}


def file_metadata(plan: Plan, network: Network) -> dict[str, str]:
    """Return the metadata of the exported files: name, description, version, author, license."""
    metadata = plan.run.metadata
    licenses = dict.fromkeys(backbone.pretrained_cfg.license for backbone in network.backbones.values())
    return {
        "name": metadata.name or plan.workdir.name,
        "description": f"{_join_specs(plan.heads)} on {_join_specs(plan.towers)}, by tfx_finetune",
        "version": metadata.version,
        "author": metadata.author,
        "license": metadata.license or ", ".join(filter(None, licenses)),
    }


def _join_specs(specs: Mapping[str, Spec]) -> str:
    return ", ".join(map(str, specs.values()))
