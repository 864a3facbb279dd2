"""Masks that a source draws or changes, each written once into the cache, under a name made of what determines it."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from PIL import Image

from tfx_finetune.core import assets, files

_VERSION = 1


def cache_mask(key_parts: Any, draw: Callable[[], Image.Image]) -> str:
    """Returns the path of a mask.

    Args:
        made_of: All that determines it, in values of JSON.
        draw: Makes it where it is not there: a picture of one channel of 8 bits.

    Raises:
        UserError: The cache cannot be written.
    """
    key = hashlib.sha256(json.dumps([_VERSION, key_parts]).encode()).hexdigest()
    path = assets.get_cache_dir() / "masks" / key[:2] / f"{key}.png"
    if not path.is_file():
        if not path.parent.is_dir():
            files.make_writable_folder(path.parent, "cache")
        with files.write_atomically(path) as partial:
            draw().save(partial, compress_level=1)
    return str(path)
