"""Evaluate a file of a bundle on labeled data, and print all scores as one JSON object.

    python -m tfx_finetune.evaluate --bundle=runs/tux/bundle --data=other/
    python -m tfx_finetune.evaluate --bundle=runs/tux/bundle --data=other/ --format=tflite_int8
    python -m tfx_finetune.evaluate --bundle=runs/mnist/bundle --data="idx(package='mnist')" --split=test

All labeled samples are scored, or those of one split. Exit status: 0 success, 2 user error.
"""

import json
from dataclasses import dataclass

from tfx_finetune.core import command, plugins
from tfx_finetune.core.options import option


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the command."""

    bundle: str = option("", "folder bundle/ of a finished run")
    data: str = option("", "labeled data: a folder with one sub-folder per class, a table, or a source spec")
    format: str = option("", "file of the bundle to evaluate, such as tflite_int8; default: the first")
    split: str = option("", "split to evaluate: train, val or test; default: all samples")
    max_unreadable: float = option(0.1, "largest fraction of unreadable samples", low=0, high=1)
    plugins: str = option("", plugins.HELP)


def main() -> None:
    """Run the command."""
    command.run(print_scores, EvaluateOptions(), __doc__ or "")


def print_scores(options: EvaluateOptions) -> None:
    """Print all scores of a file of a bundle on labeled data as one JSON object.

    Raises:
        UserError: If the bundle or the data cannot be used, or the data has a label that the model does not have.
    """
    from tfx_finetune.bundle.bundle import Bundle
    from tfx_finetune.datasets.labeled import load_labeled_data
    from tfx_finetune.evaluation.scores import evaluate, predict_batches
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
