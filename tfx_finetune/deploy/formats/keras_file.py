"""The Keras file: for further training, and for everything that reads Keras."""

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
    """`model.keras`: prepared inputs by name in, scores out.

    Plain Keras loads that of a tower of pictures; those of texts and sounds have layers of this package.
    """
    return Export("keras", "model.keras", write, load, tolerance=1e-5, quantized=False, read_kernels=read_kernels)


def write(servable: Servable, path: Path) -> None:
    """Saves the servable model."""
    with files.write_atomically(path) as draft:
        servable.model.save(draft)


def load(path: Path) -> LoadedModel:
    """Opens a Keras file; refuses one that would run code.

    Raises:
        UserError: It is not a Keras file that can be read, or not one of this package.
    """
    try:
        predict = make_predict_fn(load_keras_model(path))
    except (ValueError, OSError, TypeError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        # A class that Keras does not know is its only error of this type.
        todo = "name the modules of its own layers with --plugins" if isinstance(error, TypeError) else ""
        received = f"{path} ({first_line(error)})"
        raise UserError("not a readable Keras file of this package", got=received, hint=todo) from None
    return LoadedModel(predict)


def read_kernels(path: Path) -> list[np.ndarray]:
    """Kernels of the file's convolutions and dense layers, output channels first."""
    wanted = [
        layer for layer in load_keras_model(path).layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    ]
    return [np.moveaxis(np.asarray(layer.kernel), -1, 0) for layer in wanted]
