"""A tower of an earlier run as a backbone: what one run learned, frozen or trained further by another."""

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

# A head names its layers `dense`, `dropout` and so on, as the tower's own layers may be named too.
_PREFIX = "own_"


def _register(name: str, modality: str, unit: str) -> None:
    def build(path: str, tower: str = "") -> Backbone:
        return load_tower(path, tower, modality)

    build.__doc__ = f"""A tower for {unit} of a bundle, with its weights, its groups, and the card that feeds it.

    Args:
        path: The folder `bundle/` of a finished run.
        tower: Which of its towers; by default the only one for {unit}.
    """
    BACKBONES.register(build, name, modality)


_register("bundle", "image", "pictures")
_register("audio_bundle", "audio", "sounds")
_register("text_bundle", "text", "texts")


def load_tower(path: str, tower: str, modality: str) -> Backbone:
    """Takes a tower out of a bundle.

    Raises:
        UserError: It is no bundle, or one of another modality, or cannot be taken apart.
    """
    folder, known = manifest.read_network_manifest(path, "a bundle as a backbone")
    mine = [name for name, entry in known["towers"].items() if entry["modality"] == modality]
    if not tower and len(mine) > 1:
        what = f"the bundle has several towers for {modality}"
        raise UserError(what, got=folder, expected=mine, hint="say tower=")
    tower = tower or "".join(mine)
    if tower not in mine:
        kinds = [f"{name} ({entry['modality']})" for name, entry in known["towers"].items()]
        received = f"{tower or modality} of {folder}, which has {', '.join(kinds)}"
        raise UserError(f"the bundle has no such tower for {modality}", got=received, expected=mine or None)
    model = load_keras_file(folder, known)
    made = {operation.name: operation._inbound_nodes[0].outputs[0] for operation in model.operations}
    said = known["layer_names"]["towers"][tower]
    for operation in model.operations:
        operation.name = f"{_PREFIX}{operation.name}"
    inputs = model.input[tower]
    inputs.name = inputs._keras_history.operation.name = modality
    groups = tuple(
        LayerGroup(f"{_PREFIX}{name}", tuple(f"{_PREFIX}{layer}" for layer in layers), made[name])
        for name, layers in said["groups"].items()
    )
    pyramid = {level: made[name] for level, name in said["pyramid"].items()}
    features = Features(made[said["pooled"]], pyramid, made.get(said.get("tokens")), made.get(said.get("mask")))
    return Backbone(modality, _make_pretrained_cfg(folder, known, tower), inputs, features, groups)


def load_keras_file(folder: Path, manifest_data: Mapping[str, Any]) -> keras.Model:
    """The Keras file of a bundle, whose manifest is known; one that would run code is refused.

    Raises:
        UserError: It cannot be read.
    """
    file = folder / manifest_data["files"]["keras"]["path"]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The structure of `inputs`")
            return load_keras_model(file)
    except Exception as error:
        # A layer that is not known can end in any error of Keras.
        todo = "name the modules of its own components with --plugins"
        raise UserError(
            "the bundle's Keras file cannot be read", got=f"{file} ({first_line(error)})", hint=todo
        ) from None


def _make_pretrained_cfg(folder: Path, manifest_data: Mapping[str, Any], tower: str) -> PretrainedCfg:
    """The tower's card; its weights come from the bundle, and their licence from where they came before."""
    digest = manifest_data["sha256"][manifest_data["files"]["keras"]["path"]]
    return dataclasses.replace(
        PretrainedCfg.from_manifest(manifest_data["towers"][tower], folder), origin=str(folder), sha256=digest
    )
