"""Sources of samples, one file per source. Importing this package registers them.

A sample has content: `image` (encoded bytes, a path, or uint8 pixels (height, width, channels)), `audio` (encoded bytes
or a path) or `text` (UTF-8). It has a target: `label`, `objects` or `mask`. Optional columns are `split`, `group`,
`source` and `language`.
"""

from tfx_finetune.datasets.sources import coco, folder, idx, masks, paired, table, tfds, voc, yolo

__all__ = ["coco", "folder", "idx", "masks", "paired", "table", "tfds", "voc", "yolo"]
