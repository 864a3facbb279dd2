"""Predict files with a bundle, and print one JSON line per file.

    python -m tfx_finetune.predict --bundle=runs/tux/bundle a.jpg b.png folder/
    python -m tfx_finetune.predict --bundle=runs/tux/bundle --format=tflite_int8 a.jpg
    python -m tfx_finetune.predict --bundle=runs/all/bundle '{"image": "fox.png", "text": "a fox"}'
    python -m tfx_finetune.predict --bundle=runs/names/bundle --classes="zorro, gato, caballo" a.jpg

A model with several inputs takes JSON objects with the paths of files and with texts; inputs may be left out.
Each line has file (or input), label, score and scores (by label), or file and error if the file cannot be read.
Boxes are in pixels of the image. --save_pictures draws boxes and masks, --coco_results writes boxes for COCO tools.
Exit status: 0 success, 2 user error. From Python: `Bundle.open(folder).predict(files)`.
"""

import json
from dataclasses import dataclass
from typing import Any

from tfx_finetune.core import command, plugins
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import option, split_names


@dataclass(frozen=True)
class PredictOptions:
    """Options of the command."""

    bundle: str = option("", "folder bundle/ of a finished run")
    format: str = option("", "file of the bundle that predicts, such as tflite_int8; default: the first")
    language: str = option(
        "", "language of the sample, for heads by language, and of the labels, for translated labels"
    )
    classes: str = option(
        "", "class names in any language, separated by commas, among which a zero_shot() head chooses"
    )
    save_pictures: str = option("", "folder for images with boxes and masks drawn into them, and for masks")
    coco_results: str = option("", "file for all boxes in the COCO results format, low scores included")
    coco_ids: str = option("", "COCO annotation file that defines the image and category IDs of the results")
    plugins: str = option("", plugins.HELP)


def predict(options: PredictOptions, paths: list[str]) -> None:
    """Print the predictions of files, of all files in folders, and of JSON objects.

    Raises:
        UserError: If the bundle cannot be used, there is nothing to predict, or some files cannot be read; the
            predictions of all other files are printed first.
    """
    from tfx_finetune.bundle.bundle import Bundle
    from tfx_finetune.bundle.coco_results import CocoResults

    plugins.load(options.plugins)
    if not paths:
        raise UserError("No files to predict", hint="name files or folders after the flags")
    bundle = Bundle.open(options.bundle)
    classes = split_names(options.classes)
    if options.coco_ids and not options.coco_results:
        raise UserError("--coco_ids needs --coco_results", got=options.coco_ids, hint="name a file for the results")
    results = CocoResults(bundle.tasks, options.coco_ids) if options.coco_results else None
    errors = []
    count = 0
    inputs = map(_parse_argument, paths)
    for record in bundle.predict_each(
        inputs, options.format, options.language, classes, options.save_pictures, results
    ):
        # A lone surrogate, which JSON allows and UTF-8 does not, is printed as a JSON escape.
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
        print(line, flush=True)
        errors += [f"{record.get('file', record.get('input'))}: {record['error']}"] if "error" in record else []
        count += 1
    if results:
        results.write(options.coco_results)
    if not count:
        raise UserError("No files for the inputs of the model", got=", ".join(paths))
    if errors:
        raise UserError(f"{len(errors)} of {count} samples cannot be read", got="; ".join(errors[:3]))


def _parse_argument(argument: str) -> Any:
    """Return a path as it is, and the value of a JSON object."""
    if not argument.lstrip().startswith("{"):
        return argument
    try:
        return json.loads(argument)
    except ValueError as error:
        raise UserError("An argument is not a JSON object", got=f"{argument} ({error})") from None


def main() -> None:
    """Run the command."""
    command.run(predict, PredictOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
