"""Sample data: images, names and spoken names of Tux Paint's stamps, from a Debian package."""

from collections import Counter
from pathlib import Path
from typing import Literal

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.data_files import FILE_SUFFIXES, find_images
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.types.components import SOURCES, Source


@SOURCES.register
def tux_stamps(
    min_samples: int = 8,
    group: Literal["", "folder", "name"] = "",
    modalities: tuple[str, ...] = ("image",),
    languages: tuple[str, ...] = ("en",),
) -> Source:
    """Read Tux Paint's stamps, labeled by category (animals, food, vehicles, ...): images, most cut out, and names.

    The package tuxpaint-stamps-default is used if it is installed, else downloaded into the cache without root.
    Mirrored copies are left out, because they could be in another split than their original.

    Args:
        min_samples: Minimum number of stamps of a category; smaller categories are left out. Default 8.
        group: `folder` keeps all stamps of a sub-folder, often a series by one artist, in one split; `name` keeps all
            stamps with the same English name, the column `name`, in one split. Default: no groups.
        modalities: Modalities of image, audio (spoken name) and text (written name). A modality is missing in a sample
            if the stamp does not have it in the language of the sample. Default: image.
        languages: Languages of the names as the package abbreviates them: en, es, pt_BR, zh_TW, ... A stamp is one
            sample per language in which it has a name; all samples with the same English name stay in one split.
            Default: en.

    Raises:
        UserError: If a modality does not exist, or no stamp has a name in these languages.
    """
    for modality in modalities:
        if modality not in FILE_SUFFIXES:
            raise UserError("tux_stamps() has no such modality", got=modality, expected=FILE_SUFFIXES)
    root = assets.fetch("tux-stamps")
    stamps = [path for path in find_images(root) if path.suffix == ".png" and "_mirror" not in path.stem]
    counts = Counter(_get_category(root, path) for path in stamps)
    max_count = max(counts.values(), default=0)
    if max_count < min_samples or not stamps:
        got = f"min_samples={min_samples} ({root})"
        raise UserError("No category of tux_stamps() has so many images", got=got, expected=f"at most {max_count}")
    rows = []
    for path in stamps:
        category = _get_category(root, path)
        if counts[category] < min_samples:
            continue
        names = _read_names(path.with_suffix(".txt"))
        name = names.get("en") or path.stem.replace("_", " ")
        # Stamps with the same name, such as two frogs, have the same text and often the same audio file.
        name_group = "" if modalities == ("image",) and group != "name" else names.get("en") or str(path)
        row = {"label": category, "name": name, "group": str(path.parent) if group == "folder" else name_group}
        for language, contents in _list_sample_contents(path, names, modalities, languages):
            file = str(path.relative_to(root)) + (f" ({language})" if language else "")
            language_column = {"language": language} if modalities != ("image",) else {}
            rows.append(contents | row | {"file": file} | language_column)
    if not rows:
        got = ", ".join(languages)
        raise UserError("No stamp has a name in these languages", got=got, expected="en, fr, ...")
    paths = tuple(modality for modality in modalities if modality != "text")
    return InMemorySource("tux_stamps", (), paths, group_columns_by_split(rows))


def _get_category(root: Path, path: Path) -> str:
    return path.relative_to(root).parts[0]


def _list_sample_contents(
    image: Path, names: dict[str, str], modalities: tuple[str, ...], languages: tuple[str, ...]
) -> list[tuple[str, dict[str, str]]]:
    """Return (language, content by modality) of each sample of a stamp."""
    if modalities == ("image",):
        return [("", {"image": str(image)})]
    samples = []
    for language in languages:
        contents = {"image": str(image), "audio": _find_audio_path(image, language), "text": names.get(language, "")}
        if any(contents[modality] for modality in modalities if modality != "image"):
            samples.append((language, {modality: contents[modality] for modality in modalities}))
    if not samples and "image" in modalities:
        samples = [("", {modality: str(image) if modality == "image" else "" for modality in modalities})]
    return samples


def _read_names(path: Path) -> dict[str, str]:
    """Read names by language: the first line is English, other lines are such as `fi.utf8=...`."""
    if not path.is_file():
        return {}
    first, *others = path.read_text("utf-8", errors="replace").splitlines() or [""]
    pairs = (line.split(".utf8=", 1) for line in others if ".utf8=" in line)
    return {"en": first.strip()} | {language.strip(): name.strip() for language, name in pairs}


def _find_audio_path(image: Path, language: str) -> str:
    suffix = "_desc.ogg" if language == "en" else f"_desc_{language.lower()}.ogg"
    path = image.with_name(image.stem + suffix)
    return str(path) if path.is_file() else ""
