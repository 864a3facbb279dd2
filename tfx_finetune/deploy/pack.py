"""A run's results -> the artifact on disk; `bundle.py` opens it."""

import csv
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core import files, progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.manifest import VERSION
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.deploy.checks import Check
from tfx_finetune.deploy.formats.tflite_metadata import label_files
from tfx_finetune.deploy.golden import Golden, keep
from tfx_finetune.deploy.selection import link
from tfx_finetune.evaluation.continual_metrics import Transfer
from tfx_finetune.evaluation.records import Subset
from tfx_finetune.tasks import translations
from tfx_finetune.types.components import EXPORTS, Card
from tfx_finetune.types.deployment import Export, Servable
from tfx_finetune.types.table import Table


def create(path: Path, manifest: dict[str, Any], exports: Mapping[str, Export], servable: Servable) -> Bundle:
    """Writes every export, the labels and the manifest into a folder, which appears only when it is whole.

    Args:
        path: The bundle's folder; an earlier one is replaced.
        manifest: What the run knows about the model; `version` and `files` are added.
        exports: The files to write, by spec string.
        servable: What they write.
    """
    known = {}
    towers = {tower: dict(entry) for tower, entry in manifest["towers"].items()}
    with files.atomic(path) as draft, progress.bar("export", len(exports)) as advance:
        draft.mkdir()
        for wanted in exports:
            spec, export = _written(wanted, exports[wanted], servable, draft)
            size = files.size(draft / export.file)
            known[export.format] = {"path": export.file, "export": spec, "bytes": size}
            advance(1, f"{export.format} {size / 1e6:.2f} MB")
        heads = {head: translations.labels_of(entry) for head, entry in manifest["heads"].items()}
        texts = dict(label_files(servable.labels).values()) | translations.spoken_files(heads)
        for name, text in texts.items():
            (draft / name).write_text(text, encoding="utf-8")
        for program in servable.programs:
            shutil.copyfile(program, draft / Path(program).name)
        for tower, entry in towers.items():
            if vocabulary := entry["card"]["vocabulary"]:
                name = f"vocabulary.{tower}{Path(vocabulary).suffix}"
                shutil.copyfile(vocabulary, draft / name)
                entry["card"] = entry["card"] | {"vocabulary": name}
        bundle = Bundle(draft, manifest | {"version": VERSION, "files": known, "towers": towers})
        bundle.write("manifest.json", bundle.manifest)
    return dataclasses.replace(bundle, path=path)


def _written(spec: str, export: Export, servable: Servable, draft: Path) -> tuple[str, Export]:
    """Writes a file, or, where a model of several towers cannot be written so, what takes its place."""
    try:
        export.write(servable, draft / export.file)
    except UserError as error:
        if not export.instead or len(servable.modalities) == 1:
            raise
        progress.say(f"{error}; so {export.instead} is written in place of {spec}")
        spec = export.instead
        export = EXPORTS.build(parse_spec(spec))
        if not (draft / export.file).exists():
            export.write(servable, draft / export.file)
    return spec, export


def finish(
    bundle: Bundle,
    table: Table,
    golden: Golden,
    scores: Mapping[str, Any],
    parts: Sequence[Subset],
    checks: Sequence[Check],
    chosen: Check | None = None,
    transfer: Transfer | None = None,
) -> Bundle:
    """Adds what was proven: scores.json, golden/, split.csv, the mark of each file that passed, and all checksums.

    Args:
        bundle: As `create` made it.
        table: The samples and their split.
        golden: Samples and outputs that the files were held against.
        scores: Of the trained model on the test split.
        parts: Those for subsets of its towers.
        checks: Of every file.
        chosen: That of the file which `model_best.tflite` is another name of.
        transfer: How languages did that were learned one after another.
    """
    if chosen:
        link(bundle.file(chosen.format))
    bundle.write("golden/outputs.json", keep(golden, bundle.path / "golden"))
    known: dict[str, Any] = {"subsets": [part.record() for part in parts]} if parts else {}
    known |= {"transfer": transfer.record()} if transfer else {}
    bundle.write("scores.json", {"test": scores} | known | {check.format: check.record() for check in checks})
    with (bundle.path / "split.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "sha256", *table.columns])
        writer.writerows(zip(table.file, table.split, table.digest, *table.columns.values(), strict=True))
    verified = {check.format: not check.reason for check in checks}
    best = {"best": chosen.format} if chosen else {}
    done = dict(bundle.manifest) | {"verified": verified} | best | {"sha256": _digests(bundle.path)}
    bundle.write("manifest.json", done)
    return dataclasses.replace(bundle, manifest=done)


def describe(modality: str, options: dict[str, Any], card: Card) -> dict[str, Any]:
    """The manifest's entry of a tower, from which its modality is built again."""
    return {"modality": modality, "options": options, "card": dataclasses.asdict(card)}


def _digests(folder: Path) -> dict[str, str]:
    """Checksum of every file of a bundle, the manifest left out, which holds them."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: files.sha256(folder / name) for name in names if name != "manifest.json"}
