"""Tux Paint's stamps: pictures, names and spoken names of things, of the Debian package tuxpaint-stamps-default."""

from collections import Counter
from pathlib import Path
from typing import Literal

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.in_memory import FILE_SUFFIXES, InMemorySource, find_images
from tfx_finetune.types.components import SOURCES, Source


@SOURCES.register
def tux_stamps(
    min_samples: int = 8,
    group: Literal["", "folder", "name"] = "",
    modalities: tuple[str, ...] = ("image",),
    languages: tuple[str, ...] = ("en",),
) -> Source:
    """Tux Paint's stamps by category (animals, food, vehicles, ...): pictures, most with a real cut-out, and names.

    The package is used where it is installed, else downloaded into the cache without root. Mirrored copies are
    left out: they would stand on both sides of a split.

    Args:
        min_samples: Categories of fewer things are left out.
        group: `folder` keeps all things of a sub-folder, often a series by one artist, on one side of the split, `name`
            all things of one English name, which is their column `name`.
        modalities: Of image, audio (the spoken name) and text (the written one). A sample lacks what a thing does
            not have in its language.
        languages: Of names, as the package abbreviates them: en, es, pt_BR, zh_TW, ... Each gives a sample of its
            own, where there is a name in it; all samples of things of one name stay on one side of the split.

    Raises:
        UserError: There is no such modality, or nothing of them in these languages.
    """
    for modality in modalities:
        if modality not in FILE_SUFFIXES:
            raise UserError("tux_stamps has no such modality", got=modality, expected=FILE_SUFFIXES)
    root = assets.fetch("tux-stamps")
    things = [path for path in find_images(root) if path.suffix == ".png" and "_mirror" not in path.stem]
    counts = Counter(_get_category(root, path) for path in things)
    kept = [path for path in things if counts[_get_category(root, path)] >= min_samples]
    if not kept:
        most = max(counts.values(), default=0)
        raise UserError("no category has so many pictures", got=f"{min_samples} ({root})", expected=f"up to {most}")
    rows = []
    for path in kept:
        names = _read_names(path.with_suffix(".txt"))
        # Things of one name, such as two frogs, have one text and often one sound.
        name = names.get("en") or path.stem.replace("_", " ")
        thing = "" if modalities == ("image",) and group != "name" else names.get("en") or str(path)
        for language, content in _list_sample_contents(path, names, modalities, languages):
            file = str(path.relative_to(root)) + (f" ({language})" if language else "")
            named = {"label": _get_category(root, path), "name": name, "file": file}
            together = {"group": str(path.parent) if group == "folder" else thing}
            rows.append(content | named | together | ({"language": language} if modalities != ("image",) else {}))
    if not rows:
        raise UserError("no stamp has a name in these languages", got=", ".join(languages), expected="en, fr, ...")
    paths = tuple(modality for modality in modalities if modality != "text")
    return InMemorySource(
        "tux_stamps", (), paths, {"all": {column: [row[column] for row in rows] for column in rows[0]}}
    )


def _get_category(root: Path, path: Path) -> str:
    return path.relative_to(root).parts[0]


def _list_sample_contents(
    image: Path, names: dict[str, str], modalities: tuple[str, ...], languages: tuple[str, ...]
) -> list[tuple[str, dict[str, str]]]:
    """(language, content by modality) of each sample of a thing."""
    if modalities == ("image",):
        return [("", {"image": str(image)})]
    found = []
    for language in languages:
        own = {"image": str(image), "audio": _find_audio_path(image, language), "text": names.get(language, "")}
        if any(own[modality] for modality in modalities if modality != "image"):
            found.append((language, {modality: own[modality] for modality in modalities}))
    if not found and "image" in modalities:
        found = [("", {modality: str(image) if modality == "image" else "" for modality in modalities})]
    return found


def _read_names(path: Path) -> dict[str, str]:
    """Names by language: the first line is English, each other one such as `fi.utf8=...`."""
    if not path.is_file():
        return {}
    first, *others = path.read_text("utf-8", errors="replace").splitlines() or [""]
    pairs = (line.split(".utf8=", 1) for line in others if ".utf8=" in line)
    return {"en": first.strip()} | {language.strip(): name.strip() for language, name in pairs}


def _find_audio_path(image: Path, language: str) -> str:
    ending = "_desc.ogg" if language == "en" else f"_desc_{language.lower()}.ogg"
    path = image.with_name(image.stem + ending)
    return str(path) if path.is_file() else ""
