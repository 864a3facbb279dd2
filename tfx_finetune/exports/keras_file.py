"""The Keras file: for further training, and for everything that reads Keras."""

from pathlib import Path

import keras
import numpy as np

from tfx_finetune.contracts import EXPORTS, Batch, Export, Reader, Servable
from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError


@EXPORTS.register
def keras_file() -> Export:
    """`model.keras`: pixels of 0 to 255 in, scores out; only stock layers, so that plain Keras loads it."""
    return Export("keras", "model.keras", write, load, tolerance=1e-5, quantized=False)


def write(servable: Servable, path: Path) -> None:
    """Saves the servable model."""
    with files.atomic(path) as draft:
        servable.model.save(draft)


def load(path: Path) -> Reader:
    """Opens a Keras file; refuses one that would run code.

    Raises:
        UserError: It is not a readable Keras file.
    """
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError("not a readable Keras file", received=f"{path} ({reason})") from None

    def predict(inputs: Batch) -> Batch:
        floats = {name: np.asarray(values, np.float32) for name, values in inputs.items()}
        return {name: keras.ops.convert_to_numpy(value) for name, value in model.predict_on_batch(floats).items()}

    return Reader(predict)
