"""Opened bundle: its files, components and predictions."""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from tfx_finetune.bundle.coco_results import CocoResults
from tfx_finetune.bundle.drawings import DrawingWriter, to_original_pixels
from tfx_finetune.bundle.inputs import PredictInput, expand_folders, make_preprocess, read_content
from tfx_finetune.core import files, progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.manifest import read_manifest
from tfx_finetune.core.registry import Registry
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets import filters
from tfx_finetune.datasets.sources.data_files import format_path
from tfx_finetune.tasks import routing
from tfx_finetune.tasks.outputs import postprocess_outputs
from tfx_finetune.tasks.translations import check_language, parse_manifest_labels, select_outputs, translate_predictions
from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.components import EXPORTS, MODALITIES, TASKS, Modality, PretrainedCfg
from tfx_finetune.types.deployment import Export, LoadedModel
from tfx_finetune.types.task import Task

# In float16, the maximum difference of 90,000 probabilities of a segmenter was 0.022.
_DENSE_TOLERANCE_FACTOR = 3


@dataclass(frozen=True)
class Bundle:
    """Trained model in several file formats, with labels, scores and preprocessing.

    Attributes:
        path: Folder of the bundle.
        manifest: Content of manifest.json.

    Examples:
        Predict the label of a picture:

            bundle = Bundle.open("runs/tux/bundle")
            bundle.predict(["photos/cat.jpg"])[0]["label"]
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Open a bundle and check that all files exist and are unchanged.

        Args:
            path: Folder of the bundle.

        Raises:
            UserError: If the folder is not a bundle, or a file is missing or changed.
        """
        return cls(*read_manifest(path))

    @property
    def formats(self) -> list[str]:
        """Names of the exported files, such as `tflite_int8`."""
        return list(self.manifest["files"])

    @property
    def file_sizes(self) -> dict[str, tuple[str, int]]:
        """(file, bytes) by format."""
        return {format: (entry["path"], entry["bytes"]) for format, entry in self.manifest["files"].items()}

    @functools.cached_property
    def modalities(self) -> dict[str, Modality]:
        """Modality of each input, by tower."""
        return {tower: self._build_modality(entry) for tower, entry in self.manifest["towers"].items()}

    def _build_modality(self, entry: Mapping[str, Any]) -> Modality:
        spec, cfg = Spec(entry["modality"], (), entry["options"]), PretrainedCfg.from_manifest(entry, self.path)
        return cast(Modality, self._build_component(MODALITIES, spec, cfg))

    @functools.cached_property
    def tasks(self) -> dict[str, Task]:
        """Tasks by head."""
        heads = self.manifest["heads"].items()
        return {
            head: self._build_component(TASKS, parse_spec(entry["task"]), parse_manifest_labels(entry))
            for head, entry in heads
        }

    def _build_component(self, registry: Registry, spec: Spec, *context: Any) -> Any:
        """Build a component; the error for an unknown name mentions the plug-ins of the bundle."""
        plugins = self.manifest.get("plugins")
        if plugins and spec.name not in registry:
            hint = f"say --plugins={plugins}, or import the plug-in first"
            raise UserError(f"The bundle needs the {registry.kind} of a plug-in", got=spec.name, hint=hint)
        return registry.build(spec, *context)

    @functools.cached_property
    def preprocess(self) -> Callable[[Mapping[str, bytes]], Batch]:
        """Function: raw content by tower -> prepared inputs of one sample, with the operations of training.

        With several towers, some inputs may be missing. The function raises `UnreadableError` if a content cannot be
        decoded or all inputs are missing.
        """
        # The modalities are built outside of the graphs, which would own their constants.
        return make_preprocess(self.modalities)

    @functools.cached_property
    def _predict_fns(self) -> dict[str, PredictFn]:
        """Predict functions of the files that were opened, by format."""
        return {}

    def get_export(self, format: str) -> Export:
        """Return the export component that writes and reads a format.

        Raises:
            UserError: If the bundle has no such format.
        """
        if format not in self.manifest["files"]:
            hint = did_you_mean(format, self.formats)
            raise UserError("The bundle has no such format", got=format, expected=self.formats, hint=hint)
        return cast(Export, self._build_component(EXPORTS, parse_spec(self.manifest["files"][format]["export"])))

    def get_tolerance(self, format: str) -> float:
        """Return the maximum difference of decoded outputs from the trained model's on golden samples.

        Dense heads have a wider tolerance, because the maximum is over ten thousands of values instead of a few.
        """
        has_dense_head = any(task.localization for task in self.tasks.values())
        return self.get_export(format).tolerance * (_DENSE_TOLERANCE_FACTOR if has_dense_head else 1)

    def get_path(self, format: str) -> Path:
        """Return the path of a format's file or folder."""
        return self.path / str(self.manifest["files"][format]["path"])

    def load_model(self, format: str = "") -> LoadedModel:
        """Open the file of a format; the first one by default."""
        format = format or self.formats[0]
        return self.get_export(format).load(self.get_path(format))

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file of the bundle."""
        with files.write_atomically(self.path / name) as draft:
            draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")

    def predict(
        self, samples: Iterable[PredictInput], format: str = "", language: str = "", classes: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Predict files, all files in folders, and samples with several inputs.

        Args:
            samples: Paths of files and folders; or for each sample {tower: value}, where the value is the path of a
                file, a text, or content as bytes. Models with several inputs need the latter; inputs may be missing.
            format: File of the bundle that predicts. Default: the first.
            language: Language of the head that predicts, or other value of the column of `--heads_by`; and language of
                the labels, if the classes have names in it. The value `language` of a sample has priority. Default:
                the model predicts it, and labels are class names.
            classes: Two or more class names for a model with a head `zero_shot()`, in any language of its text tower.
                Default: the classes of the model.

        Returns:
            One record per sample, in order: file or input, label, score, and scores by label; with several heads, these
            by head. A sample that cannot be read has file or input, and error.

        Raises:
            UserError: If a sample has an unnamed or unknown input, the model has no heads or class names for the
                language, or no head accepts `classes`.
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
        """Predict like `predict`, and yield one record at a time.

        Args:
            samples: See `predict`.
            format: See `predict`.
            language: See `predict`.
            classes: See `predict`.
            save_pictures: Folder for images with the predicted boxes and masks; empty for none.
            coco_results: Receives the predicted boxes.
        """
        format = format or self.formats[0]
        if format not in self._predict_fns:
            self._predict_fns[format] = self.load_model(format).predict
        if not self.manifest["verified"][format]:
            progress.log(f"{format} did not pass verification; scores.json has the reason")
        heads_by = filters.get_heads_by(self.tasks)
        check_language(self.tasks, language, bool(heads_by))
        has_translations = any(task.labels.translations for task in self.tasks.values())
        group_column = heads_by or ("language" if has_translations else "")
        head_outputs = select_outputs(self.tasks, classes)
        tasks = {head: task for head, (_, task) in head_outputs.items()}
        translate = functools.cache(functools.partial(translate_predictions, tasks))
        drawing_writer = DrawingWriter(save_pictures, self.tasks) if save_pictures else None
        for sample in expand_folders(samples, self.modalities):
            group = language
            if group_column and isinstance(sample, Mapping):
                group = str(sample.get(group_column) or language)
                sample = {name: value for name, value in sample.items() if name != group_column}
            record = {"input": dict(sample)} if isinstance(sample, Mapping) else {"file": format_path(str(sample))}
            try:
                raw = read_content(sample, self.modalities)
                inputs = self.preprocess(raw)
            except (OSError, ValueError) as error:  # ValueError: the path has an invalid character, such as a null byte
                yield record | {"error": getattr(error, "strerror", None) or str(error)}
                continue
            for tower, content in raw.items():
                if warning := self.modalities[tower].warning(content):
                    progress.log(f"{record.get('file', tower)} is {warning}")
            outputs = postprocess_outputs(self.tasks, self._predict_fns[format](inputs))
            scores = {head: outputs[f"{head}/{output}"][0] for head, (output, _) in head_outputs.items()}
            scores = self._to_original_coordinates(scores, raw)
            file = str(record.get("file", "picture"))
            if drawing_writer:
                drawing_writer.save(Path(file).stem, next(iter(raw.values())), scores)
            if coco_results:
                coco_results.add(file, scores)
            yield record | routing.select_prediction(translate("" if classes else group), scores, group)

    def _to_original_coordinates(
        self, scores: dict[str, np.ndarray], raw: Mapping[str, bytes]
    ) -> dict[str, np.ndarray]:
        """Convert boxes and masks from the model input to pixels of the original image."""
        for head in [head for head, task in self.tasks.items() if task.localization]:
            ((tower, modality),) = self.modalities.items()
            scores[head] = to_original_pixels(scores[head], raw[tower], modality)
        return scores
