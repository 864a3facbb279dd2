"""Keras file, for further training and for programs that read Keras models."""

import zipfile
from pathlib import Path

import keras
import numpy as np

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.ops.functional import load_keras_model, make_predict_fn
from tfx_finetune.types.components import EXPORTS
from tfx_finetune.types.deployment import Export, LoadedModel, Servable


@EXPORTS.register
def keras_file() -> Export:
    """`model.keras`: prepared inputs by name -> scores.

    Plain Keras loads the file of an image model; text and audio models have layers of this package.
    """
    return Export("keras", "model.keras", write, load, tolerance=1e-5, quantized=False, read_kernels=read_kernels)


def write(servable: Servable, path: Path) -> None:
    """Save the servable model."""
    with files.write_atomically(path) as draft:
        servable.model.save(draft)


def load(path: Path) -> LoadedModel:
    """Open a Keras file; a file that would run code is refused.

    Raises:
        UserError: If it is not a readable Keras file of this package.
    """
    try:
        predict = make_predict_fn(load_keras_model(path))
    except (ValueError, OSError, TypeError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        # Keras raises TypeError only for unknown classes.
        hint = "name the modules of custom layers in --plugins" if isinstance(error, TypeError) else ""
        got = f"{path} ({first_line(error)})"
        raise UserError("The file is not a readable Keras file of this package", got=got, hint=hint) from None
    return LoadedModel(predict)


def read_kernels(path: Path) -> list[np.ndarray]:
    """Read the kernels of convolutions and dense layers, output channels first."""
    layers = [
        layer for layer in load_keras_model(path).layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    ]
    return [np.moveaxis(np.asarray(layer.kernel), -1, 0) for layer in layers]
