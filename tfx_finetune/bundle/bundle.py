"""STATION: the artifact on disk, opened: its files read, its answers given."""

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow as tf

from tfx_finetune.bundle import drawings as pictures
from tfx_finetune.bundle.coco_results import CocoResults
from tfx_finetune.core import files, progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.manifest import read_manifest
from tfx_finetune.core.registry import Registry
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets import filters
from tfx_finetune.datasets.sources.data_files import find_files, format_path
from tfx_finetune.ops.tf_data import decode_or_empty
from tfx_finetune.tasks import routing
from tfx_finetune.tasks.outputs import postprocess_outputs
from tfx_finetune.tasks.translations import check_language, parse_manifest_labels, select_outputs, translate_predictions
from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.components import EXPORTS, MODALITIES, MODALITY_MASK, TASKS, Modality, PretrainedCfg
from tfx_finetune.types.deployment import Export, LoadedModel
from tfx_finetune.types.task import Task

# In float16, the largest difference among 90,000 probabilities of a segmenter was 0.022.
_DENSE_TOLERANCE_FACTOR = 3

PredictInput = str | Path | Mapping[str, Any]
"""What is to be predicted: a file, or what each tower takes, by name: the path of a file, the text itself, or the
content as bytes."""


class UnreadableError(ValueError):
    """Why a sample cannot be decoded, in a few words."""


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
            UserError: None is given, it is no bundle, or a file is missing or altered.
        """
        return cls(*read_manifest(path))

    @property
    def formats(self) -> list[str]:
        """Names of the exported files, such as `tflite_int8`."""
        return list(self.manifest["files"])

    @property
    def file_sizes(self) -> dict[str, tuple[str, int]]:
        """(file, bytes) by format."""
        return {format: (known["path"], known["bytes"]) for format, known in self.manifest["files"].items()}

    @functools.cached_property
    def modalities(self) -> dict[str, Modality]:
        """How raw content becomes model input, by tower."""
        return {tower: self._build_modality(known) for tower, known in self.manifest["towers"].items()}

    def _build_modality(self, entry: Mapping[str, Any]) -> Modality:
        spec, cfg = Spec(entry["modality"], (), entry["options"]), PretrainedCfg.from_manifest(entry, self.path)
        return cast(Modality, self._build_component(MODALITIES, spec, cfg))

    @functools.cached_property
    def tasks(self) -> dict[str, Task]:
        """Heads by name."""
        heads = self.manifest["heads"].items()
        return {
            head: self._build_component(TASKS, parse_spec(known["task"]), parse_manifest_labels(known))
            for head, known in heads
        }

    def _build_component(self, registry: Registry, spec: Spec, *context: Any) -> Any:
        """A component; where there is none of this name, the error says whose it was."""
        plugins = self.manifest.get("plugins")
        if plugins and spec.name not in registry:
            todo = f"say --plugins={plugins}, or import it first"
            raise UserError(f"the bundle needs the {registry.kind} of a plug-in", got=spec.name, hint=todo)
        return registry.build(spec, *context)

    @functools.cached_property
    def preprocess(self) -> Callable[[Mapping[str, bytes]], Batch]:
        """Raw content by tower -> prepared inputs of this one sample, by the operations of training.

        Of several towers some may go without. It raises `UnreadableError` where a content cannot be decoded, or there
        is none.
        """
        # The modalities are built here, outside of the graphs that their constants would belong to.
        return make_preprocess(self.modalities)

    @functools.cached_property
    def _predict_fns(self) -> dict[str, PredictFn]:
        """Files that predictions were made with, so that the next ones need not wait for them."""
        return {}

    def get_export(self, format: str) -> Export:
        """The component that wrote and reads a format.

        Raises:
            UserError: The bundle has no such format.
        """
        if format not in self.manifest["files"]:
            todo = did_you_mean(format, self.formats)
            raise UserError("the bundle has no such format", got=format, expected=self.formats, hint=todo)
        return cast(Export, self._build_component(EXPORTS, parse_spec(self.manifest["files"][format]["export"])))

    def get_tolerance(self, format: str) -> float:
        """Largest difference of a golden sample's decoded outputs from the trained model's.

        Of a head that answers every place of a picture the worst of some ten thousand numbers counts, not of a few.
        """
        dense = any(task.localization for task in self.tasks.values())
        return self.get_export(format).tolerance * (_DENSE_TOLERANCE_FACTOR if dense else 1)

    def get_path(self, format: str) -> Path:
        """Where the file of a format lies."""
        return self.path / str(self.manifest["files"][format]["path"])

    def load_model(self, format: str = "") -> LoadedModel:
        """Opens one of the files, by default the first."""
        format = format or self.formats[0]
        return self.get_export(format).load(self.get_path(format))

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file of the bundle."""
        with files.write_atomically(self.path / name) as draft:
            draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")

    def predict(
        self, samples: Iterable[PredictInput], format: str = "", language: str = "", classes: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Predicts files, every file of folders, and samples of several parts.

        Args:
            samples: Files and folders, for a model of one tower; or `{tower: path of a file}`, where text stands as it
                is, bytes are the content itself, and some towers may be left out.
            format: Which of the bundle's files predicts; by default the first.
            language: Whose head answers, in a model with heads by language (or whatever they are routed by), and in
                which, where its classes have names; a sample's own `language` comes first. By default the model's own
                guess, and the classes as they were learned.
            classes: Names among which a model with a head `zero_shot()` chooses, in any language its text tower knows; by
                default those it knows.

        Returns:
            One record a sample, in order: file (or input), label, score and scores by label (by head where there are
            several), or file and error where it cannot be read.

        Raises:
            UserError: A model of several towers is given a file that is not named, or one of another name; or it has
                neither heads nor names by language, or none of this one; or no head that takes other classes.
        """
        return list(self.predict_each(samples, format, language, classes))

    def predict_each(
        self,
        samples: Iterable[PredictInput],
        format: str = "",
        language: str = "",
        classes: Sequence[str] = (),
        save_pictures: str = "",
        coco_results: CocoResults | None = None,
    ) -> Iterator[dict[str, Any]]:
        """As `predict`, one record at a time.

        What is found in pictures is drawn into the folder `save_pictures`, and added to `results`.
        """
        format = format or self.formats[0]
        if format not in self._predict_fns:
            self._predict_fns[format] = self.load_model(format).predict
        if not self.manifest["verified"][format]:
            progress.log(f"{format} did not pass verification; scores.json says why")
        route = filters.get_heads_by(self.tasks)
        check_language(self.tasks, language, bool(route))
        column = route or ("language" if any(task.labels.translations for task in self.tasks.values()) else "")
        chosen = select_outputs(self.tasks, classes)
        drawings = pictures.DrawingWriter(save_pictures, self.tasks) if save_pictures else None
        for given in self._expand_folders(samples):
            lane = language
            if column and isinstance(given, Mapping):
                lane = str(given.get(column) or language)
                given = {name: value for name, value in given.items() if name != column}
            shown = {"input": dict(given)} if isinstance(given, Mapping) else {"file": format_path(str(given))}
            try:
                raw = self._read_content(given)
                inputs = self.preprocess(raw)
            except (OSError, ValueError) as error:  # ValueError: the path holds what no path can, such as a null byte.
                yield shown | {"error": getattr(error, "strerror", None) or str(error)}
                continue
            for tower, content in raw.items():
                if remark := self.modalities[tower].warning(content):
                    progress.log(f"{shown.get('file', tower)} is {remark}")
            outputs = postprocess_outputs(self.tasks, self._predict_fns[format](inputs))
            scores = self._to_original_coordinates(
                {head: outputs[f"{head}/{output}"][0] for head, (output, _) in chosen.items()}, raw
            )
            file = str(shown.get("file", "picture"))
            if drawings:
                drawings.save(Path(file).stem, next(iter(raw.values())), scores)
            if coco_results:
                coco_results.add(file, scores)
            tasks = translate_predictions({head: task for head, (_, task) in chosen.items()}, "" if classes else lane)
            yield shown | routing.select_prediction(tasks, scores, lane)

    def _to_original_coordinates(
        self, scores: dict[str, np.ndarray], raw: Mapping[str, bytes]
    ) -> dict[str, np.ndarray]:
        """Answers of heads; what was found in a picture lies in pixels of the picture as it came."""
        for head in [head for head, task in self.tasks.items() if task.localization]:
            ((tower, modality),) = self.modalities.items()
            scores[head] = pictures.to_original_pixels(scores[head], raw[tower], modality)
        return scores

    def _read_content(self, sample: str | Path | Mapping[str, Any]) -> dict[str, bytes]:
        """The raw content of what is to be predicted, by tower."""
        towers = list(self.modalities)
        if not isinstance(sample, Mapping):
            if len(towers) > 1:
                todo = "name what each takes, such as " + json.dumps(dict.fromkeys(towers, "..."))
                raise UserError("a model of several inputs", got=sample, expected=towers, hint=todo)
            return {towers[0]: Path(sample).read_bytes()}
        if unknown := set(sample) - set(towers):
            raise UserError("the model has no such input", got=min(unknown), expected=towers)
        return {tower: self._read_tower_content(tower, value) for tower, value in sample.items() if value}

    def _read_tower_content(self, tower: str, value: Any) -> bytes:
        """The raw content of what is given for one tower."""
        if isinstance(value, bytes):
            return value
        try:
            if self.modalities[tower].inline:
                if not isinstance(value, (str, int, float)):
                    raise UnreadableError(f"no text, but {type(value).__name__}")
                return str(value).encode("utf-8", "surrogatepass")
            if not isinstance(value, (str, os.PathLike)):
                raise UnreadableError(f"neither the path of a file nor its content, but {type(value).__name__}")
            if content := Path(value).read_bytes():
                return content
            # Nothing at all would pass for an input that is left out.
            raise UnreadableError("empty file")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UnreadableError(f"{tower}: {why}" if len(self.modalities) > 1 else why) from None

    def _expand_folders(self, samples: Iterable[PredictInput]) -> Iterator[Path | Mapping[str, Any]]:
        """Each sample, and for a folder every file in it of what the model takes."""
        first = next(iter(self.modalities.values()))
        for given in samples:
            if isinstance(given, Mapping):
                yield given
            elif Path(given).is_dir() and len(self.modalities) == 1:
                yield from find_files(Path(given)).get(first.column, [])
            else:
                yield Path(given)


def make_preprocess(modalities: Mapping[str, Modality]) -> Callable[[Mapping[str, bytes]], Batch]:
    """`Bundle.prepare` of a model that takes these."""
    graphs = {tower: _make_graph(modality) for tower, modality in modalities.items()}
    several = len(modalities) > 1

    def prepared(raw: Mapping[str, bytes]) -> Batch:
        if not any(raw.values()) and several:
            raise UnreadableError(f"has none of {', '.join(modalities)}")
        inputs = {}
        for tower, modality in modalities.items():
            content = raw.get(tower, b"")
            try:
                there = bool(content) or not several
                inputs[tower] = graphs[tower](tf.constant(content), tf.constant(there)).numpy()[None]
            except tf.errors.OpError as error:
                raise UnreadableError((f"{tower}: " if several else "") + modality.error_message(error)) from None
        presence = np.array([[bool(raw.get(tower)) for tower in modalities]], np.float32)
        return inputs | ({MODALITY_MASK: presence} if several else {})

    return prepared


def _make_graph(modality: Modality) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(lambda raw, there: modality.prepare(decode_or_empty(modality, raw, there)), autograph=False)
