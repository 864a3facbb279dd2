"""Writing of bundles; `bundle/bundle.py` opens them."""

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
from tfx_finetune.tasks import translations
from tfx_finetune.types.components import EXPORTS, PretrainedCfg
from tfx_finetune.types.deployment import Export, Servable
from tfx_finetune.types.table import Table


def create_bundle(path: Path, manifest: dict[str, Any], exports: Mapping[str, Export], servable: Servable) -> Bundle:
    """Write all exports, the label files and the manifest into a folder, which appears only when it is complete.

    Args:
        path: Folder of the bundle. An existing one is replaced.
        manifest: Manifest without `version` and `files`.
        exports: Exports by spec string.
        servable: Input of the exports.
    """
    file_entries = {}
    towers = {tower: dict(entry) for tower, entry in manifest["towers"].items()}
    with files.write_atomically(path) as draft, progress.bar("export", len(exports)) as advance:
        draft.mkdir()
        for requested_spec in exports:
            spec, export = _write_export(requested_spec, exports[requested_spec], servable, draft)
            size = files.compute_size(draft / export.file_name)
            file_entries[export.format] = {"path": export.file_name, "export": spec, "bytes": size}
            advance(1, f"{export.format} {size / 1e6:.2f} MB")
        heads = {head: translations.parse_manifest_labels(entry) for head, entry in manifest["heads"].items()}
        texts = dict(make_label_files(servable.labels).values()) | translations.make_label_files(heads)
        for name, text in texts.items():
            (draft / name).write_text(text, encoding="utf-8")
        for helper_file in servable.helper_files:
            shutil.copyfile(helper_file, draft / Path(helper_file).name)
        for tower, entry in towers.items():
            if vocabulary := entry["pretrained_cfg"]["vocabulary"]:
                name = f"vocabulary.{tower}{Path(vocabulary).suffix}"
                shutil.copyfile(vocabulary, draft / name)
                entry["pretrained_cfg"] = entry["pretrained_cfg"] | {"vocabulary": name}
        bundle = Bundle(draft, manifest | {"version": VERSION, "files": file_entries, "towers": towers})
        bundle.write_json("manifest.json", bundle.manifest)
    return dataclasses.replace(bundle, path=path)


def _write_export(spec: str, export: Export, servable: Servable, draft: Path) -> tuple[str, Export]:
    """Write a file, or the fallback of the export if it cannot convert a model with several towers."""
    try:
        export.write(servable, draft / export.file_name)
    except UserError as error:
        if not export.fallback or len(servable.modalities) == 1:
            raise
        progress.log(f"{error} {export.fallback} is written instead of {spec}.")
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
    results: Sequence[VerificationResult],
    selected: VerificationResult | None = None,
) -> Bundle:
    """Add scores.json, golden/, split.csv, the verification results and the checksums.

    Args:
        bundle: Result of `create_bundle`.
        table: Samples and their split.
        golden: Golden samples.
        scores: Entries of scores.json about the trained model, such as `test`.
        results: Verification results of all files.
        selected: Result of the file that `model_best.tflite` links to, or None.
    """
    if selected:
        link_best_file(bundle.get_path(selected.format))
    bundle.write_json("golden/outputs.json", write_golden(golden, bundle.path / "golden"))
    bundle.write_json("scores.json", dict(scores) | {result.format: result.to_dict() for result in results})
    with (bundle.path / "split.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "sha256", *table.columns])
        writer.writerows(zip(table.file, table.split, table.digest, *table.columns.values(), strict=True))
    verified = {result.format: not result.failure_reason for result in results}
    selection = {"selected_format": selected.format} if selected else {}
    digests = {"sha256": _compute_digests(bundle.path)}
    manifest = dict(bundle.manifest) | {"verified": verified} | selection | digests
    bundle.write_json("manifest.json", manifest)
    return dataclasses.replace(bundle, manifest=manifest)


def describe_tower(modality: str, options: dict[str, Any], pretrained_cfg: PretrainedCfg) -> dict[str, Any]:
    """Return the entry of a tower in the manifest, from which a bundle builds its modality."""
    return {"modality": modality, "options": options, "pretrained_cfg": dataclasses.asdict(pretrained_cfg)}


def _compute_digests(folder: Path) -> dict[str, str]:
    """Compute the checksums of all files of a bundle but the manifest, which contains them."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: files.sha256(folder / name) for name in names if name != "manifest.json"}
