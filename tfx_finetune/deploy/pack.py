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
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.deploy.formats.tflite_metadata import make_label_files
from tfx_finetune.deploy.golden import GoldenSamples, write_golden
from tfx_finetune.deploy.selection import link_best_file
from tfx_finetune.evaluation.continual_metrics import ContinualMetrics
from tfx_finetune.evaluation.records import ModalityAblation
from tfx_finetune.tasks import translations
from tfx_finetune.types.components import EXPORTS, PretrainedCfg
from tfx_finetune.types.deployment import Export, Servable
from tfx_finetune.types.table import Table


def create_bundle(path: Path, manifest: dict[str, Any], exports: Mapping[str, Export], servable: Servable) -> Bundle:
    """Writes every export, the labels and the manifest into a folder, which appears only when it is whole.

    Args:
        path: The bundle's folder; an earlier one is replaced.
        manifest: What the run knows about the model; `version` and `files` are added.
        exports: The files to write, by spec string.
        servable: What they write.
    """
    known = {}
    towers = {tower: dict(entry) for tower, entry in manifest["towers"].items()}
    with files.write_atomically(path) as draft, progress.bar("export", len(exports)) as advance:
        draft.mkdir()
        for wanted in exports:
            spec, export = _write_export(wanted, exports[wanted], servable, draft)
            size = files.compute_size(draft / export.file_name)
            known[export.format] = {"path": export.file_name, "export": spec, "bytes": size}
            advance(1, f"{export.format} {size / 1e6:.2f} MB")
        heads = {head: translations.parse_manifest_labels(entry) for head, entry in manifest["heads"].items()}
        texts = dict(make_label_files(servable.labels).values()) | translations.make_label_files(heads)
        for name, text in texts.items():
            (draft / name).write_text(text, encoding="utf-8")
        for program in servable.helper_files:
            shutil.copyfile(program, draft / Path(program).name)
        for tower, entry in towers.items():
            if vocabulary := entry["pretrained_cfg"]["vocabulary"]:
                name = f"vocabulary.{tower}{Path(vocabulary).suffix}"
                shutil.copyfile(vocabulary, draft / name)
                entry["pretrained_cfg"] = entry["pretrained_cfg"] | {"vocabulary": name}
        bundle = Bundle(draft, manifest | {"version": VERSION, "files": known, "towers": towers})
        bundle.write_json("manifest.json", bundle.manifest)
    return dataclasses.replace(bundle, path=path)


def _write_export(spec: str, export: Export, servable: Servable, draft: Path) -> tuple[str, Export]:
    """Writes a file, or, where a model of several towers cannot be written so, what takes its place."""
    try:
        export.write(servable, draft / export.file_name)
    except UserError as error:
        if not export.fallback or len(servable.modalities) == 1:
            raise
        progress.log(f"{error}; so {export.fallback} is written in place of {spec}")
        spec = export.fallback
        export = EXPORTS.build(parse_spec(spec))
        if not (draft / export.file_name).exists():
            export.write(servable, draft / export.file_name)
    return spec, export


def finalize_bundle(
    bundle: Bundle,
    table: Table,
    golden: GoldenSamples,
    scores: Mapping[str, Any],
    ablations: Sequence[ModalityAblation],
    results: Sequence[VerificationResult],
    selected: VerificationResult | None = None,
    continual_metrics: ContinualMetrics | None = None,
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
    if selected:
        link_best_file(bundle.get_path(selected.format))
    bundle.write_json("golden/outputs.json", write_golden(golden, bundle.path / "golden"))
    known: dict[str, Any] = {"ablations": [part.to_dict() for part in ablations]} if ablations else {}
    known |= {"continual": continual_metrics.to_dict()} if continual_metrics else {}
    bundle.write_json("scores.json", {"test": scores} | known | {check.format: check.to_dict() for check in results})
    with (bundle.path / "split.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "sha256", *table.columns])
        writer.writerows(zip(table.file, table.split, table.digest, *table.columns.values(), strict=True))
    verified = {check.format: not check.failure_reason for check in results}
    best = {"selected_format": selected.format} if selected else {}
    done = dict(bundle.manifest) | {"verified": verified} | best | {"sha256": _compute_digests(bundle.path)}
    bundle.write_json("manifest.json", done)
    return dataclasses.replace(bundle, manifest=done)


def describe_tower(modality: str, options: dict[str, Any], pretrained_cfg: PretrainedCfg) -> dict[str, Any]:
    """The manifest's entry of a tower, from which its modality is built again."""
    return {"modality": modality, "options": options, "pretrained_cfg": dataclasses.asdict(pretrained_cfg)}


def _compute_digests(folder: Path) -> dict[str, str]:
    """Checksum of every file of a bundle, the manifest left out, which holds them."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: files.sha256(folder / name) for name in names if name != "manifest.json"}
