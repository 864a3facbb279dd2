"""COMMAND: a bundle and files in, one JSON line a file out.

    python -m tfx_finetune.predict --bundle=runs/tux/bundle a.jpg b.png folder/
    python -m tfx_finetune.predict --bundle=runs/tux/bundle --format=tflite_int8 a.jpg
    python -m tfx_finetune.predict --bundle=runs/all/bundle '{"image": "fox.png", "text": "a fox"}'
    python -m tfx_finetune.predict --bundle=runs/names/bundle --classes="zorro, gato, caballo" a.jpg

A model of several inputs takes JSON objects of what it is given: the paths of files, and text as it is; some may be
left out. Each line has file (or input), label, score and scores (by label), or file and error where it cannot be read.
A head that finds things gives their boxes in pixels of the picture; --save_pictures draws what was found, and
--coco_results writes boxes as COCO's tools read them.
From Python: `Bundle.open(folder).predict(files)`.
"""

import json
from dataclasses import dataclass
from typing import Any

from tfx_finetune.core import command, plugins
from tfx_finetune.core.config import option
from tfx_finetune.core.errors import UserError


@dataclass(frozen=True)
class PredictOptions:
    """Options of the command."""

    bundle: str = option("", "the folder bundle/ of a finished run")
    format: str = option("", "which of the bundle's files predicts, such as tflite_int8; by default the first")
    language: str = option("", "whose head answers, and in which, where there are heads or names by language")
    classes: str = option("", "names, separated by commas, among which a head zero_shot() chooses, in any language")
    save_pictures: str = option("", "folder for the pictures with what was found in them drawn, and for masks")
    coco_results: str = option("", "file for all boxes that were found, the unsure too, as COCO's tools read them")
    coco_ids: str = option("", "COCO file of the pictures, whose ids of pictures and classes those results have")
    plugins: str = option("", plugins.HELP)


def predict(options: PredictOptions, paths: list[str]) -> None:
    """Prints the predictions of files, of every file of folders, and of JSON objects.

    Raises:
        UserError: The bundle cannot be used, there is nothing to predict, or some files could not be read; what
            could be read is printed first.
    """
    from tfx_finetune.bundle.bundle import Bundle
    from tfx_finetune.bundle.coco_results import CocoResults

    plugins.load(options.plugins)
    if not paths:
        raise UserError("nothing to predict", hint="name files or folders behind the flags")
    bundle = Bundle.open(options.bundle)
    classes = [name.strip() for name in options.classes.split(",") if name.strip()]
    if options.coco_ids and not options.coco_results:
        raise UserError("--coco_ids goes with --coco_results", got=options.coco_ids, hint="name a file for them")
    results = CocoResults(bundle.tasks, options.coco_ids) if options.coco_results else None
    failed = []
    count = 0
    given = map(_parse_argument, paths)
    for record in bundle.predict_each(given, options.format, options.language, classes, options.save_pictures, results):
        # Half a pair of surrogates, which JSON may hold and UTF-8 may not, is printed as JSON escapes it.
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
        print(line, flush=True)
        failed += [f"{record.get('file', record.get('input'))}: {record['error']}"] if "error" in record else []
        count += 1
    if results:
        results.write(options.coco_results)
    if not count:
        raise UserError("no files found that the model could take", got=", ".join(paths))
    if failed:
        raise UserError(f"{len(failed)} of {count} samples cannot be read", got="; ".join(failed[:3]))


def _parse_argument(argument: str) -> Any:
    """A path, or what a JSON object says."""
    if not argument.lstrip().startswith("{"):
        return argument
    try:
        return json.loads(argument)
    except ValueError as error:
        raise UserError("not a JSON object", got=f"{argument} ({error})") from None


def main() -> None:
    """Runs the command."""
    command.run(predict, PredictOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
