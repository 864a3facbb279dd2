"""What keras-hub keeps under the name of a preset."""

from typing import Any

from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.core.extras import import_package


def load_preset(class_name: str, preset: str) -> Any:
    """A network or tokenizer of keras-hub.

    Args:
        kind: A class of `keras_hub.models`, such as `Backbone`, which takes all networks.
        preset: The name of a preset, which keras-hub downloads, or a folder that holds one.

    Raises:
        UserError: keras-hub is not installed, or the preset cannot be had.
    """
    models = import_package("keras_hub", "hub").models
    try:
        return getattr(models, class_name).from_preset(preset)
    except Exception as error:
        # A connection, a folder and a file can be missing or broken in as many ways as keras-hub has readers.
        todo = "mend the connection, or give the folder of a preset that was downloaded elsewhere"
        received = f"{preset} ({first_line(error)})"
        raise UserError(f"keras-hub cannot load this preset as {class_name}", got=received, hint=todo) from None
