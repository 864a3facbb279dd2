"""Source of images in one folder and their segmentation masks in another."""

from collections.abc import Iterator
from pathlib import Path

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.data_files import (
    SPLIT_NAMES,
    find_images,
    format_path,
    list_split_folders,
    map_files_by_name,
    resolve_folder,
)
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.datasets.sources.mask_files import MaskPair, read_color_map, read_masks
from tfx_finetune.ops.annotations import AnnotationIssues
from tfx_finetune.types.components import SOURCES, Source

_MASK_SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_seg", "_L", "")


@SOURCES.register
def masks(path: str, images: str = "images", masks: str = "masks", colors: str = "") -> Source:
    """Read images and their masks, PNG files of the same names: masks('streets') with images/1.jpg and masks/1.png.

    A mask may be named 1_mask.png (or _label, _seg, _L) and may then lie in the folder of its image. Splits are folders
    `train/`, `val/`, `test/` above or below images/ and masks/.

    Values of gray masks and palette indices are class numbers. `labelmap.txt` or `classes.txt` lists the class names in
    order, one per line. If its lines are `name red green blue`, masks may have these colors. The value 255 is ignored
    in training and in scores. Color masks and black-and-white masks are converted and written into the cache.

    Args:
        path: Folder of the data.
        images: Name of the folder of images in it. Default `images`.
        masks: Name of the folder of masks in it. Default `masks`.
        colors: File of the classes and their colors, if it has another name.

    Raises:
        UserError: If no image has a mask, or if no file assigns the colors of masks to classes.
    """
    root = resolve_folder(path)
    issues, color_map = AnnotationIssues(), read_color_map(root, colors)
    pairs = list(_find_mask_pairs(root, images, masks, issues))
    if not pairs:
        layout = f"{images}/1.jpg and {masks}/1.png, or 1.jpg and 1_mask.png"
        raise UserError("The folder has no image with a mask", got=path, expected=layout)
    labels, records = read_masks(pairs, color_map, issues)
    warnings = issues.report()
    if not records:
        raise UserError("The folder has no usable mask", got=path)
    columns = group_columns_by_split(records)
    return InMemorySource(format_path(root.resolve().name), labels, ("image", "mask"), columns, warnings)


def is_masks_folder(folder: Path) -> bool:
    """Return True if a folder or each of its split folders has the sub-folders `images` and `masks`."""
    return any(
        all((parent / name).is_dir() for name in ("images", "masks"))
        for parent in (folder, *list_split_folders(folder))
    )


def _find_mask_pairs(root: Path, images: str, masks: str, issues: AnnotationIssues) -> Iterator[MaskPair]:
    for split, image_folder, mask_folder in _find_folder_pairs(root, images, masks):
        is_same_folder = image_folder == mask_folder
        mask_files = map_files_by_name(mask_folder, find_images(mask_folder))
        jpeg_masks = (path for path in mask_files.values() if path.suffix.lower() in (".jpg", ".jpeg"))
        if not is_same_folder and (jpeg_mask := next(jpeg_masks, None)):
            raise UserError("JPEG compression changes the values of masks", got=jpeg_mask, expected="masks as PNG")
        for image in find_images(image_folder):
            stem = image.relative_to(image_folder).with_suffix("").as_posix()
            if is_same_folder and any(suffix and stem.endswith(suffix) for suffix in _MASK_SUFFIXES):
                continue
            names = [stem + suffix for suffix in _MASK_SUFFIXES if mask_files.get(stem + suffix, image) != image]
            if names:
                yield split, image, mask_files.pop(names[0])
            else:
                issues.count("images without a mask, left out", format_path(str(image)))
        if not is_same_folder:
            for mask in mask_files.values():
                issues.count("masks without an image, left out", format_path(str(mask)))


def _find_folder_pairs(root: Path, images: str, masks: str) -> Iterator[tuple[str, Path, Path]]:
    """Yield (split, folder of images, folder of masks); both folders are the same if masks lie next to their images."""
    if (root / images).is_dir() and (root / masks).is_dir():
        split_folders = list_split_folders(root / images)
        for folder in split_folders:
            yield SPLIT_NAMES[folder.name.lower()], folder, root / masks / folder.name
        if not split_folders:
            yield "", root / images, root / masks
        return
    for parent in list_split_folders(root) or [root]:
        split = SPLIT_NAMES[parent.name.lower()] if parent != root else ""
        folders = (parent / images, parent / masks)
        yield (split, *folders) if all(folder.is_dir() for folder in folders) else (split, parent, parent)
