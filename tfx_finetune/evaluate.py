"""COMMAND and STATION: any predict function and batches -> scores.

    python -m tfx_finetune.evaluate --bundle=runs/tux/bundle --data=other/
    python -m tfx_finetune.evaluate --bundle=runs/tux/bundle --data=other/ --format=tflite_int8
    python -m tfx_finetune.evaluate --bundle=runs/mnist/bundle --data="idx(package='mnist')" --split=test

prints one JSON object with every score of a bundle's file on labelled data, whole: nothing of it is held back.
"""

import json
from dataclasses import dataclass

from tfx_finetune.core import command, plugins
from tfx_finetune.core.config import option
from tfx_finetune.evaluation.scores import evaluate, predict_batches


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the command."""

    bundle: str = option("", "the folder bundle/ of a finished run")
    data: str = option("", "labelled data: a folder with a sub-folder a class, a table, or a source spec")
    format: str = option("", "which of the bundle's files is evaluated, such as tflite_int8; by default the first")
    split: str = option("", "train, val or test of data that comes split; by default everything")
    max_unreadable: float = option(0.1, "share of unreadable samples above which the command fails", low=0, high=1)
    plugins: str = option("", plugins.HELP)


def main() -> None:
    """Runs the command."""
    command.run(print_scores, EvaluateOptions(), __doc__ or "")


def print_scores(options: EvaluateOptions) -> None:
    """Prints every score of a bundle's file on labelled data as one JSON object.

    Raises:
        UserError: Bundle or data cannot be used, or the data has a label that the model does not know.
    """
    from tfx_finetune.bundle.bundle import Bundle
    from tfx_finetune.datasets.labeled import load_labeled_data
    from tfx_finetune.evaluation.slices import make_slice_masks

    plugins.load(options.plugins)
    bundle = Bundle.open(options.bundle)
    data = load_labeled_data(options.data, bundle.modalities, bundle.tasks, options.split, options.max_unreadable)
    predict = bundle.load_model(options.format).predict
    batches = ((inputs, targets) for inputs, targets, _ in data.make_batches("test").as_numpy_iterator())
    scores = evaluate(
        bundle.tasks, *predict_batches(predict, batches, bundle.tasks), make_slice_masks(data.table, "test")
    )
    print(
        json.dumps({"samples": data.table.size("test"), "skipped": len(data.table.errors)} | scores, ensure_ascii=False)
    )


if __name__ == "__main__":
    main()
