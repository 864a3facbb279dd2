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
from tfx_finetune.types.components import PretrainedCfg

# torch names these parts of a layer, in the order in which Keras keeps them.
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
    if weights != packaged_name:
        return set_file_origin(pretrained_cfg, weights, packaged_name)
    found = assets.ASSETS[asset]
    origin = f"{found.package} {found.version} ({_REGISTRY_NAMES[found.registry]}), {origin}"
    return dataclasses.replace(
        pretrained_cfg, origin=origin, license=found.license, sha256=next(iter(found.sha256.values()))
    )


def set_file_origin(pretrained_cfg: PretrainedCfg, weights: str, packaged_name: str = "imagenet") -> PretrainedCfg:
    """The card with what is known of the weights: `none` or a path, where they are not those called `name`.

    Raises:
        UserError: There is no such file.
    """
    if weights == "none":
        return pretrained_cfg
    return dataclasses.replace(
        pretrained_cfg, origin=weights, sha256=files.sha256(find_weights_file(weights, packaged_name))
    )


def find_weights_file(path: str, packaged_name: str = "imagenet") -> Path:
    """The path of a file of weights, where they are not those called `name`.

    Raises:
        UserError: There is no such file.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError("no such file of weights", got=path, expected=f"{packaged_name}, none or a path")
    return place


def load_weights(model: keras.Model, name: str, weights: str, asset: str, modules: Mapping[str, str]) -> None:
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
    path = assets.fetch_file(asset) if weights == "imagenet" else find_weights_file(weights)
    if path.suffix in (".pth", ".pt"):
        _assign_weights(model, torch_weights.read_state_dict(path), modules, f"{path} into {name}")
    else:
        load_keras_weights(model, name, path)


def load_keras_weights(model: keras.Model, name: str, path: Path) -> None:
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
        raise UserError(f"these are not weights of {name}", got=f"{path} ({first_line(error)})") from None


def _assign_weights(
    model: keras.Model, tensors: dict[str, np.ndarray], modules: Mapping[str, str], description: str
) -> None:
    for layer in model.layers:
        if not layer.weights:
            continue
        parts = _BATCH_NORM_TENSORS if isinstance(layer, keras.layers.BatchNormalization) else _KERNEL_TENSORS
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        wanted = [f"{modules[layer.name]}.{part}" for part in parts[: len(layer.weights)]]
        values = [torch_weights.to_keras(tensors[name], depthwise) for name in wanted if name in tensors]
        if [value.shape for value in values] != [tuple(weight.shape) for weight in layer.weights]:
            raise UserError("the weights are of another model", got=f"{description} (differs at {layer.name})")
        layer.set_weights(values)
