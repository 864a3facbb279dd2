"""STATION: the artifact on disk: created by a run, opened by everyone else."""

import csv
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.checks import Check
from tfx_finetune.choose import link
from tfx_finetune.contracts import EXPORTS, MODALITIES, TASKS, Card, Labels, Modality, Predict, Task
from tfx_finetune.core import files, progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.deployed import Export, Reader, Servable
from tfx_finetune.golden import Golden, keep
from tfx_finetune.metadata import label_files
from tfx_finetune.modalities.image import reason
from tfx_finetune.sources.rows import pictures, readable
from tfx_finetune.survey import Table

VERSION = 1
"""Of the manifest's form; a bundle of another version is refused."""


@dataclass(frozen=True)
class Bundle:
    """A trained model in several formats, with labels, scores and all that is needed to feed it.

    Attributes:
        path: The folder.
        manifest: What stands in `manifest.json`.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Opens a bundle and checks that every file is there and unchanged.

        Raises:
            UserError: It is no bundle, or a file is missing or altered.
        """
        if not path:
            raise UserError("no bundle given", todo="say --bundle=FOLDER, the folder bundle/ of a finished run")
        path = Path(path).expanduser()
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            version = manifest["version"]
        except (OSError, ValueError, KeyError, TypeError):
            todo = "name the folder bundle/ of a finished run"
            raise UserError("not a bundle (it has no readable manifest.json)", received=path, todo=todo) from None
        if version != VERSION:
            todo = "use the tfx_finetune that wrote it"
            raise UserError("a bundle of another version", received=version, allowed=VERSION, todo=todo)
        if "verified" not in manifest:
            raise UserError("a bundle whose run has not finished", received=path, todo="run its command again")
        for name, digest in manifest["sha256"].items():
            if not (path / name).is_file():
                raise UserError("a file of the bundle is missing", received=path / name, todo="run its command again")
            if files.sha256(path / name) != digest:
                todo = "it is not what was verified; run its command again"
                raise UserError("a file of the bundle was altered", received=path / name, todo=todo)
        return cls(path, manifest)

    @property
    def formats(self) -> list[str]:
        """Names of the exported files, such as `tflite_int8`."""
        return list(self.manifest["files"])

    @property
    def sizes(self) -> dict[str, tuple[str, int]]:
        """(file, bytes) by format."""
        return {format: (known["path"], known["bytes"]) for format, known in self.manifest["files"].items()}

    @functools.cached_property
    def modality(self) -> Modality:
        """How raw content becomes model input."""
        known = self.manifest["modality"]
        return MODALITIES.build(Spec(known["name"], (), known["options"]), Card(**_tuples(known["card"])))

    @functools.cached_property
    def tasks(self) -> dict[str, Task]:
        """Heads by name."""
        heads = self.manifest["heads"].items()
        return {
            head: TASKS.build(
                parse_spec(known["task"]), Labels(tuple(known["labels"]), tuple(known["counts"]), known["samples"])
            )
            for head, known in heads
        }

    @functools.cached_property
    def prepare(self) -> Callable[[bytes], np.ndarray]:
        """Raw content -> prepared input, by the operations of training; `tf.errors.OpError` where it is unreadable."""
        # The modality is built here, outside of the graph that its constants would belong to.
        modality = self.modality
        graph = tf.function(lambda raw: modality.prepare(modality.decode(raw)), autograph=False)
        return lambda raw: graph(tf.constant(raw)).numpy()

    @functools.cached_property
    def _opened(self) -> dict[str, Predict]:
        """Files that predictions were made with, so that the next ones need not wait for them."""
        return {}

    def export(self, format: str) -> Export:
        """The component that wrote and reads a format.

        Raises:
            UserError: The bundle has no such format.
        """
        if format not in self.manifest["files"]:
            todo = did_you_mean(format, self.formats)
            raise UserError("the bundle has no such format", received=format, allowed=self.formats, todo=todo)
        return EXPORTS.build(parse_spec(self.manifest["files"][format]["export"]))

    def file(self, format: str) -> Path:
        """Where the file of a format lies."""
        return self.path / self.manifest["files"][format]["path"]

    def reader(self, format: str = "") -> Reader:
        """Opens one of the files, by default the first."""
        format = format or self.formats[0]
        return self.export(format).load(self.file(format))

    def write(self, name: str, content: Any) -> None:
        """Writes a JSON file of the bundle."""
        with files.atomic(self.path / name) as draft:
            draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")

    def predict(self, paths: Iterable[str | Path], format: str = "") -> list[dict[str, Any]]:
        """Predicts files, and every picture of folders.

        Args:
            paths: Files and folders.
            format: Which of the bundle's files predicts; by default the first.

        Returns:
            One record a file, in order: file, label, score and scores by label (by head where there are several),
            or file and error where it cannot be read.
        """
        return list(self.predict_each(paths, format))

    def predict_each(self, paths: Iterable[str | Path], format: str = "") -> Iterator[dict[str, Any]]:
        """As `predict`, one record at a time."""
        format = format or self.formats[0]
        if format not in self._opened:
            self._opened[format] = self.reader(format).predict
        if not self.manifest["verified"][format]:
            progress.say(f"{format} did not pass verification; scores.json says why")
        for path in _expand(paths):
            name = readable(str(path))
            try:
                pixels = self.prepare(path.read_bytes())
            except (OSError, ValueError) as error:  # ValueError: the path holds what no path can, such as a null byte.
                yield {"file": name, "error": getattr(error, "strerror", None) or str(error)}
                continue
            except tf.errors.OpError as error:
                yield {"file": name, "error": reason(error)}
                continue
            outputs = self._opened[format]({self.modality.column: pixels[None]})
            found = {head: task.predict(outputs[f"{head}/scores"][0]) for head, task in self.tasks.items()}
            yield {"file": name} | (next(iter(found.values())) if len(found) == 1 else found)


def create(path: Path, manifest: dict[str, Any], exports: Mapping[str, Export], servable: Servable) -> Bundle:
    """Writes every export, the labels and the manifest into a folder, which appears only when it is whole.

    Args:
        path: The bundle's folder; an earlier one is replaced.
        manifest: What the run knows about the model; `version` and `files` are added.
        exports: The files to write, by spec string.
        servable: What they write.
    """
    known = {}
    with files.atomic(path) as draft, progress.bar("export", len(exports)) as advance:
        draft.mkdir()
        for spec, export in exports.items():
            export.write(servable, draft / export.file)
            size = files.size(draft / export.file)
            known[export.format] = {"path": export.file, "export": spec, "bytes": size}
            advance(1, f"{export.format} {size / 1e6:.2f} MB")
        for name, text in label_files(servable.labels).values():
            (draft / name).write_text(text, encoding="utf-8")
        bundle = Bundle(draft, manifest | {"version": VERSION, "files": known})
        bundle.write("manifest.json", bundle.manifest)
    return dataclasses.replace(bundle, path=path)


def finish(
    bundle: Bundle,
    table: Table,
    golden: Golden,
    scores: Mapping[str, Any],
    checks: Sequence[Check],
    chosen: Check | None = None,
) -> Bundle:
    """Adds what was proven: scores.json, golden/, split.csv, the mark of each file that passed, and all checksums.

    Args:
        bundle: As `create` made it.
        table: The samples and their split.
        golden: Samples and outputs that the files were held against.
        scores: Of the trained model on the test split.
        checks: Of every file.
        chosen: That of the file which `model_best.tflite` is another name of.
    """
    if chosen:
        link(bundle.file(chosen.format))
    bundle.write("golden/outputs.json", keep(golden, bundle.path / "golden"))
    bundle.write("scores.json", {"test": scores} | {check.format: check.record() for check in checks})
    with (bundle.path / "split.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "sha256", *table.columns])
        writer.writerows(zip(table.file, table.split, table.digest, *table.columns.values(), strict=True))
    verified = {check.format: not check.reason for check in checks}
    known = {"verified": verified} | ({"best": chosen.format} if chosen else {})
    done = dict(bundle.manifest) | known | {"sha256": _digests(bundle.path)}
    bundle.write("manifest.json", done)
    return dataclasses.replace(bundle, manifest=done)


def describe(modality: str, options: dict[str, Any], card: Card) -> dict[str, Any]:
    """The manifest's entry from which `Bundle.modality` is built again."""
    return {"name": modality, "options": options, "card": dataclasses.asdict(card)}


def _tuples(card: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in card.items()}


def _digests(folder: Path) -> dict[str, str]:
    """Checksum of every file of a bundle, the manifest left out, which holds them."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: files.sha256(folder / name) for name in names if name != "manifest.json"}


def _expand(paths: Iterable[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        yield from pictures(path) if path.is_dir() else [path]
