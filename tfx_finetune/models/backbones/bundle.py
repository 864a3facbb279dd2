"""Backbone from a tower of an earlier run's bundle."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from tfx_finetune.core import manifest
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.ops.functional import load_keras_model
from tfx_finetune.types.components import BACKBONES, Backbone, Features, LayerGroup, PretrainedCfg

# The prefix avoids clashes with the layers of heads, which have Keras's default names such as `dense`.
_PREFIX = "own_"


def _register(name: str, modality: str) -> None:
    def build(path: str, tower: str = "") -> Backbone:
        return load_tower(path, tower, modality)

    article = "a" if modality == "text" else "an"

    build.__doc__ = f"""Load {article} {modality} tower of a bundle with its weights and layer groups.

    Args:
        path: Path of the folder `bundle/` of a finished run.
        tower: Name of the tower. Default: the only {modality} tower of the bundle.
    """
    BACKBONES.register(build, name, modality)


_register("bundle", "image")
_register("audio_bundle", "audio")
_register("text_bundle", "text")


def load_tower(path: str, tower: str, modality: str) -> Backbone:
    """Load a tower of a bundle as a backbone.

    Args:
        path: Folder of the bundle.
        tower: Name of the tower, or an empty string for the only tower of the modality.
        modality: `image`, `audio` or `text`.

    Raises:
        UserError: If the folder is not a bundle, has no such tower, or cannot be read by layer.
    """
    folder, manifest_data = manifest.read_network_manifest(path, "A backbone from a bundle")
    names = [name for name, entry in manifest_data["towers"].items() if entry["modality"] == modality]
    if not tower and len(names) > 1:
        message = f"The bundle {folder} has several {modality} towers"
        raise UserError(message, got=", ".join(names), hint="select one with the option tower")
    tower = tower or "".join(names)
    if tower not in names:
        modalities = [f"{name} ({entry['modality']})" for name, entry in manifest_data["towers"].items()]
        got = f"{tower or modality} of {folder}, which has {', '.join(modalities)}"
        raise UserError(f"The bundle has no such {modality} tower", got=got, expected=names or None)
    model = load_keras_file(folder, manifest_data)
    outputs = {operation.name: operation._inbound_nodes[0].outputs[0] for operation in model.operations}
    layer_names = manifest_data["layer_names"]["towers"][tower]
    for operation in model.operations:
        operation.name = f"{_PREFIX}{operation.name}"
    inputs = model.input[tower]
    inputs.name = inputs._keras_history.operation.name = modality
    groups = tuple(
        LayerGroup(f"{_PREFIX}{name}", tuple(f"{_PREFIX}{layer}" for layer in layers), outputs[name])
        for name, layers in layer_names["groups"].items()
    )
    features = Features(
        outputs[layer_names["pooled"]],
        {level: outputs[name] for level, name in layer_names["pyramid"].items()},
        outputs.get(layer_names.get("tokens")),
        outputs.get(layer_names.get("mask")),
    )
    return Backbone(modality, _make_pretrained_cfg(folder, manifest_data, tower), inputs, features, groups)


def load_keras_file(folder: Path, manifest_data: Mapping[str, Any]) -> keras.Model:
    """Load the Keras file of a bundle in safe mode: a file that would run code is refused.

    Args:
        folder: Folder of the bundle.
        manifest_data: Content of its manifest.json.

    Raises:
        UserError: If the file cannot be read.
    """
    file = folder / manifest_data["files"]["keras"]["path"]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The structure of `inputs`")
            return load_keras_model(file)
    except Exception as error:
        # An unknown layer can end in any error of Keras.
        message, got = "The Keras file of the bundle cannot be read", f"{file} ({first_line(error)})"
        hint = "name the modules of the bundle's plugins with --plugins"
        raise UserError(message, got=got, hint=hint) from None


def _make_pretrained_cfg(folder: Path, manifest_data: Mapping[str, Any], tower: str) -> PretrainedCfg:
    """Return the configuration of a tower with the bundle as the origin of its weights; their license stays."""
    cfg = PretrainedCfg.from_manifest(manifest_data["towers"][tower], folder)
    digest = manifest_data["sha256"][manifest_data["files"]["keras"]["path"]]
    return dataclasses.replace(cfg, origin=str(folder), sha256=digest)
