"""Train a model on your own data, export it and verify every file.

    python -m tfx_finetune.train --data=photos/          a folder with one sub-folder per class
    python -m tfx_finetune.train --flagfile=configs/tux_classify.cfg --workdir=runs/tux --finetune.epochs=3
    python -m tfx_finetune.train --data=photos/ --preset=best --constraints="size<5MB, score_drop<0.01"

The work folder then holds run.cfg (which reproduces the run), checkpoints/, tensorboard/, report.html and bundle/.
The same command resumes an interrupted run. Exit status: 0 success, 2 user error, 3 a file failed verification.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfx_finetune.core import command, progress
from tfx_finetune.core.config import Run, extract_run
from tfx_finetune.core.errors import GateError
from tfx_finetune.core.options import option

if TYPE_CHECKING:
    from tfx_finetune.bundle.bundle import Bundle
    from tfx_finetune.compression.compress import CompressionResult
    from tfx_finetune.datasets.pipeline import Data
    from tfx_finetune.evaluation.continual_metrics import ContinualMetrics
    from tfx_finetune.models.network import Network
    from tfx_finetune.report.summary import RunResult
    from tfx_finetune.training.checkpoint import History
    from tfx_finetune.types.plan import Plan


def train(run: Run) -> "Bundle":
    """Train, export and verify a model.

    Args:
        run: Options of the run.

    Returns:
        The bundle in `<workdir>/bundle`.

    Raises:
        UserError: If the options or the data cannot be used.
        GateError: If an exported file does not agree with the trained model, or no file meets the constraints. Bundle
            and report are written all the same.

    Examples:
        Train on a folder with one sub-folder per class, and classify a picture:

            bundle = train(Run(data="photos/"))
            bundle.predict(["a.jpg"])
    """
    # These modules import TensorFlow, which `--help` must not wait for.
    from tfx_finetune.compression.compress import check_layers, compress
    from tfx_finetune.deploy.selection import no_file_fits_error
    from tfx_finetune.report.html import write_report
    from tfx_finetune.report.summary import make_report
    from tfx_finetune.report.terminal import print_result
    from tfx_finetune.run import workspace
    from tfx_finetune.run.plan import open_run
    from tfx_finetune.run.setup import set_up
    from tfx_finetune.training.continual import fit
    from tfx_finetune.training.feature_cache import delete_store, evict

    # All options are validated before weights or data are read.
    started = time.time()
    plan, resources = open_run(run)
    workspace.claim_workdir(plan, resources)

    # The backbones determine the preparation of samples; the samples determine the classes of the heads.
    data, network, context = set_up(plan, resources)
    if plan.compressions:
        check_layers(network)
    workspace.check_same_data(plan.workdir, data.table)

    # Phase `frozen` trains the heads on frozen towers; phase `finetune` trains the top groups of the towers as well.
    histories, continual_metrics = fit(network, data, context, run, plan.heads_by)

    # Without --compress the network stays as it is.
    compression_result = compress(network, data, plan.compressions, context, run.calibration_samples)
    histories += compression_result.histories

    # Every exported file is compared with the trained model.
    result = _export_and_verify(plan, data, network, compression_result, histories, continual_metrics)
    report = make_report(plan, data, result)
    write_report(plan.workdir / "report.html", report)
    delete_store(plan.workdir / "features")
    if plan.features_folder:
        evict(plan.features_folder, run.cache.max_bytes, started)

    print_result(plan.workdir, network.tasks, result, report.worst_groups)
    if failures := [f"{file.format} {file.failure_reason}" for file in result.results if file.failure_reason]:
        message = f"{len(failures)} of {len(result.results)} files did not pass verification"
        raise GateError(message, got="; ".join(failures))
    if plan.constraints and not result.selected:
        raise no_file_fits_error(plan.constraints, result.results)
    return result.bundle


def _export_and_verify(
    plan: "Plan",
    data: "Data",
    network: "Network",
    compression_result: "CompressionResult",
    histories: "list[History]",
    continual_metrics: "ContinualMetrics | None",
) -> "RunResult":
    """Export the trained model to all formats, and compare every file with it.

    Args:
        plan: Validated options of the run.
        data: Samples of all splits.
        network: The trained network.
        compression_result: The network to export: the compressed one, or `network` itself without --compress.
        histories: Histories of all phases.
        continual_metrics: Scores after each language, if languages were trained one after another; else None.
    """
    from tfx_finetune.deploy.checks import CompressedKernels
    from tfx_finetune.deploy.gate import with_validation_gate
    from tfx_finetune.deploy.golden import pick_samples
    from tfx_finetune.deploy.manifest import file_metadata, make_manifest
    from tfx_finetune.deploy.pack import create_bundle, finalize_bundle
    from tfx_finetune.deploy.selection import select_file
    from tfx_finetune.deploy.servable import build_servable
    from tfx_finetune.deploy.verify import verify
    from tfx_finetune.evaluation.scores import evaluate, predict_batches
    from tfx_finetune.evaluation.slices import make_slice_masks
    from tfx_finetune.ops.functional import make_predict_fn
    from tfx_finetune.report.modality_ablation import run_modality_ablation
    from tfx_finetune.report.summary import RunResult
    from tfx_finetune.training.phase_data import cache_prepared_split

    # The predictions of the trained model on the test split are the reference for all files.
    run, compressed = plan.run, compression_result.network
    servable = build_servable(
        compressed,
        data.modalities,
        data.representative_dataset(run.calibration_samples),
        file_metadata(plan, network),
        compression_result.qat_fn,
        compressed=bool(plan.compressions),
    )
    test = cache_prepared_split(data, "test", plan.workdir)
    predict_fn = make_predict_fn(servable.model)
    reference = predict_batches(predict_fn, test.batches(64), network.tasks)
    scores = evaluate(network.tasks, *reference, make_slice_masks(data.table, "test"))

    # Several towers: scores for every subset of the inputs.
    ablations, gate_weights = run_modality_ablation(compressed, test, run_full_model=bool(plan.compressions))

    # Formats that choose layers by the score use validation samples; the test split only judges.
    servable = with_validation_gate(plan.exports.values(), data, servable, plan.workdir, run.verify.max_drop)
    bundle = create_bundle(plan.workdir / "bundle", make_manifest(plan, data, network), plan.exports, servable)
    golden = pick_samples(data, servable, predict_fn)
    kernels = None
    if compressions := tuple(plan.compressions.values()):
        kernels = CompressedKernels(compressions, compression_result.kernel_sizes)
    results = verify(bundle, golden, test, reference, run.verify, kernels)
    selected = select_file(plan.constraints, results)
    trained_scores: dict[str, Any] = {"test": scores}
    trained_scores |= {"ablations": [ablation.to_dict() for ablation in ablations]} if ablations else {}
    trained_scores |= {"continual": continual_metrics.to_dict()} if continual_metrics else {}
    bundle = finalize_bundle(bundle, data.table, golden, trained_scores, results, selected)
    return RunResult(
        histories, test, reference, scores, ablations, gate_weights, results, selected, bundle, continual_metrics
    )


def find_learning_rates(run: Run) -> dict[str, float]:
    """Run a learning rate range test for every phase and train nothing; see `tune/lr_finder.py`.

    Returns:
        The suggested learning rate of each phase by name.
    """
    from tfx_finetune.run.plan import open_run
    from tfx_finetune.run.setup import set_up
    from tfx_finetune.tune import lr_finder

    plan, resources = open_run(run)
    return lr_finder.find_learning_rates(*set_up(plan, resources))


@dataclass(frozen=True)
class TrainOptions(Run):
    """Options of the command."""

    find_lr: bool = option(False, "train nothing; plot the loss over the learning rate to <workdir>/find_lr.svg")


def main() -> None:
    """Run the command."""
    command.run(_run_command, TrainOptions(), __doc__ or "")


def _run_command(options: TrainOptions) -> None:
    """Run the learning rate range test or the training."""
    run = extract_run(options)
    if options.find_lr:
        find_learning_rates(run)
        return
    try:
        train(run)
    except KeyboardInterrupt:
        progress.log("the same command resumes after the last epoch")
        raise


if __name__ == "__main__":
    main()
