"""Keras models as everything here makes and reads them: graphs between tensors, and files that may not run code."""

import warnings
from pathlib import Path
from typing import Any

import keras

from tfx_finetune.contracts import BACKBONES, NECKS, TASKS


def joined(inputs: Any, outputs: Any, name: str | None = None) -> keras.Model:
    """A model of the layers between inputs, by names of their own, and outputs."""
    kept = [(tensor, tensor._keras_history) for tensor in keras.tree.flatten(inputs)]
    with warnings.catch_warnings():
        # Keras would have a key equal the tensor's name.
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        model = keras.Model(inputs, outputs, name=name)
    for tensor, history in kept:  # Keras changes that of an input beside tensors of a graph, which it then cannot save.
        tensor._keras_history = history
    return model


def read(path: Path) -> keras.Model:
    """The model of a Keras file; one that would run code is refused, by any error of Keras."""
    # Towers, necks and heads have layers of their own, which Keras knows once their files are imported.
    for registry in (BACKBONES, NECKS, TASKS):
        len(registry)
    return keras.models.load_model(path, compile=False, safe_mode=True)
