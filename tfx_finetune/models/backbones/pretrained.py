"""Pretrained weights of backbones: from a package, a torch file, a Keras file or a keras-hub preset."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfx_finetune.core import assets, files
from tfx_finetune.core.catalog import ASSETS
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.core.extras import import_package
from tfx_finetune.models.backbones import torch_weights
from tfx_finetune.types.components import PretrainedCfg

# Names of a layer's tensors in torch, in the order of Keras's weights.
_KERNEL_TENSORS = ("weight", "bias")
_BATCH_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
_REGISTRY_NAMES = {"pypi": "PyPI", "npm": "npm"}


def set_weights_origin(
    pretrained_cfg: PretrainedCfg,
    weights: str,
    asset: str,
    packaged_name: str = "imagenet",
    origin: str = "ImageNet-1k",
) -> PretrainedCfg:
    """Return a configuration with the origin, license and checksum of the weights.

    Args:
        pretrained_cfg: Configuration of the input.
        weights: Option of the backbone: `packaged_name`, `none` or a path.
        asset: Name of the asset that holds the packaged weights.
        packaged_name: Value of `weights` that selects the asset. Default `imagenet`.
        origin: Training data of the packaged weights. Default `ImageNet-1k`.

    Raises:
        UserError: If the file does not exist.
    """
    if weights != packaged_name:
        return set_file_origin(pretrained_cfg, weights, packaged_name)
    package = ASSETS[asset]
    origin = f"{package.package} {package.version} ({_REGISTRY_NAMES[package.registry]}), {origin}"
    digest = next(iter(package.sha256.values()))
    return dataclasses.replace(pretrained_cfg, origin=origin, license=package.license, sha256=digest)


def set_file_origin(pretrained_cfg: PretrainedCfg, weights: str, packaged_name: str = "imagenet") -> PretrainedCfg:
    """Return a configuration with the path and checksum of a weights file, or unchanged if `weights` is `none`.

    Args:
        pretrained_cfg: Configuration of the input.
        weights: `none` or a path.
        packaged_name: Further valid value of the option, for the error message. Default `imagenet`.

    Raises:
        UserError: If the file does not exist.
    """
    if weights == "none":
        return pretrained_cfg
    digest = files.sha256(resolve_weights_path(weights, packaged_name))
    return dataclasses.replace(pretrained_cfg, origin=weights, sha256=digest)


def resolve_weights_path(path: str, packaged_name: str = "imagenet") -> Path:
    """Return the path of a weights file with `~` expanded, after a check that the file exists.

    Args:
        path: Value of the option `weights`.
        packaged_name: Further valid value of the option, for the error message. Default `imagenet`.

    Raises:
        UserError: If the file does not exist.
    """
    expanded = Path(path).expanduser()
    if not expanded.is_file():
        raise UserError("The weights file does not exist", got=path, expected=f"{packaged_name}, none or a path")
    return expanded


def load_weights(model: keras.Model, name: str, weights: str, asset: str, modules: Mapping[str, str]) -> None:
    """Load the weights of a backbone.

    Args:
        model: Graph of the backbone; its weights are changed in place.
        name: Name of the backbone, for error messages.
        weights: `imagenet` for the asset, `none`, or the path of a torch (.pth, .pt) or Keras file.
        asset: Name of the asset that holds the packaged weights.
        modules: Name of the torch module by layer.

    Raises:
        UserError: If the weights cannot be found or read, or are those of another model.
    """
    if weights == "none":
        return
    path = assets.fetch_file(asset) if weights == "imagenet" else resolve_weights_path(weights)
    if path.suffix in (".pth", ".pt"):
        _assign_weights(model, torch_weights.read_state_dict(path), modules, f"{path} for {name}")
    else:
        load_keras_weights(model, name, path)


def load_keras_weights(model: keras.Model, name: str, path: Path) -> None:
    """Load a weights file of Keras.

    Args:
        model: Graph of the backbone; its weights are changed in place.
        name: Name of the backbone, for the error message.
        path: File in the format `.weights.h5`.

    Raises:
        UserError: If the file cannot be read, or holds the weights of another model.
    """
    try:
        with warnings.catch_warnings():
            # Keras also stores layers by depth, which the normalization layer in front of them changes.
            warnings.filterwarnings("ignore", "Skipping nested container")
            model.load_weights(path)
    except Exception as error:
        # A damaged file can end in any error of HDF5, zip or Keras.
        raise UserError(f"The file does not hold weights of {name}", got=f"{path} ({first_line(error)})") from None


def load_hub_preset(class_name: str, preset: str) -> Any:
    """Load a network or tokenizer of keras-hub.

    Args:
        class_name: Class of `keras_hub.models`, such as `Backbone`, which loads all networks.
        preset: Name of a preset, which keras-hub downloads, or the folder of a preset.

    Raises:
        UserError: If keras-hub is not installed, or the preset cannot be loaded.
    """
    models = import_package("keras_hub", "hub").models
    try:
        return getattr(models, class_name).from_preset(preset)
    except Exception as error:
        # A failed download or a damaged file ends in an error of one of keras-hub's many readers.
        hint = "check the connection, or give the folder of a preset that was downloaded elsewhere"
        got = f"{preset} ({first_line(error)})"
        raise UserError(f"keras-hub cannot load the preset as {class_name}", got=got, hint=hint) from None


def _assign_weights(
    model: keras.Model, tensors: dict[str, np.ndarray], modules: Mapping[str, str], description: str
) -> None:
    """Set the weights of each layer from the torch tensors of its module."""
    for layer in model.layers:
        if not layer.weights:
            continue
        parts = _BATCH_NORM_TENSORS if isinstance(layer, keras.layers.BatchNormalization) else _KERNEL_TENSORS
        is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        names = [f"{modules[layer.name]}.{part}" for part in parts[: len(layer.weights)]]
        values = [torch_weights.to_keras(tensors[name], is_depthwise) for name in names if name in tensors]
        if [value.shape for value in values] != [tuple(weight.shape) for weight in layer.weights]:
            message = "The file holds the weights of another model"
            raise UserError(message, got=f"{description} (layer {layer.name} differs)")
        layer.set_weights(values)
