"""Where samples come from: one file a source, registered by being imported here.

A sample has what a tower takes, `image` (encoded bytes, a path, or uint8 pixels of shape (height, width, channels)),
`audio` (encoded bytes or a path) or `text` (UTF-8), and `label`, `objects` or `mask`; some have `split`, `group`,
`source` and `language`. `--data` takes a path, too, of which it knows what lies there.
"""

from tfx_finetune.datasets.sources import coco, folder, idx, masks, paired, table, tfds, voc, yolo

__all__ = ["coco", "folder", "idx", "masks", "paired", "table", "tfds", "voc", "yolo"]
