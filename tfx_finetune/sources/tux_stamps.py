"""Tux Paint's stamps: photographs and drawings of things, as the Debian package tuxpaint-stamps-default brings them."""

from collections import Counter
from typing import Literal

from tfx_finetune.contracts import SOURCES, Source
from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.sources.rows import Rows, pictures


@SOURCES.register
def tux_stamps(min_samples: int = 8, group: Literal["", "folder"] = "") -> Source:
    """Pictures of Tux Paint's stamps by category (animals, food, vehicles, ...), most with a real cut-out.

    The package is used where it is installed, else downloaded into the cache without root. Mirrored copies are
    left out: they would stand on both sides of a split.

    Args:
        min_samples: Categories with fewer pictures are left out.
        group: `folder` keeps all pictures of a sub-folder, often a series by one artist, on one side of the split.
    """
    root = assets.fetch("tux-stamps")
    files = [path for path in pictures(root) if path.suffix == ".png" and "_mirror" not in path.stem]
    counts = Counter(path.relative_to(root).parts[0] for path in files)
    kept = [path for path in files if counts[path.relative_to(root).parts[0]] >= min_samples]
    if not kept:
        most = max(counts.values(), default=0)
        raise UserError("no category has so many pictures", received=f"{min_samples} ({root})", allowed=f"up to {most}")
    columns = {
        "image": [str(path) for path in kept],
        "label": [path.relative_to(root).parts[0] for path in kept],
        "file": [str(path.relative_to(root)) for path in kept],
        "group": [str(path.parent) if group else "" for path in kept],
    }
    return Rows("tux_stamps", (), ("image",), {"all": columns})
