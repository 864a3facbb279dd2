"""COMMAND and MAIN PATH: data in, a verified bundle out.

    python -m tfx_finetune.train --data=photos/          a folder with a sub-folder for each class
    python -m tfx_finetune.train --flagfile=configs/tux_classify.cfg --workdir=runs/tux --finetune.epochs=3
    python -m tfx_finetune.train --data=photos/ --preset=best --constraints="size<5MB, drop<0.01"

The work folder ends up with run.cfg (reproduces the run), checkpoints/, tensorboard/, report.html and bundle/.
The same command goes on where an interrupted run stopped. Exit status: 0 done, 2 an error to mend, 3 a file that
did not pass verification.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfx_finetune.core import command, progress
from tfx_finetune.core.config import Run, extract_run, option
from tfx_finetune.core.errors import GateError

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
    """Trains, exports and verifies a model.

    Args:
        run: All that determines it.

    Returns:
        The bundle, which also lies in `<workdir>/bundle`.

    Raises:
        UserError: The configuration or the data cannot be used.
        GateError: An exported file does not agree with the trained model, or none is within the limits of `choose`;
            bundle and report are written all the same.
    """
    # The stations import TensorFlow; a command answers --help without it.
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

    # Everything a configuration can have wrong, before weights or data are touched.
    started = time.time()
    plan, resources = open_run(run)
    workspace.claim_workdir(plan, resources)
    data, network, context = set_up(plan, resources)
    if plan.compressions:
        check_layers(network)
    workspace.check_same_data(plan.workdir, data.table)

    # First the heads on the frozen tower, then the tower's top groups with them.
    histories, transfer = fit(network, data, context, run, plan.heads_by)

    # Without --compress, the network as it is.
    compressed = compress(network, data, plan.compressions, context, run.calibration_samples)
    histories += compressed.histories

    # Every file is held against the trained model.
    outcome = _export_and_verify(plan, data, network, compressed, histories, transfer)
    found = make_report(plan, data, outcome)
    write_report(plan.workdir / "report.html", found)
    delete_store(plan.workdir / "features")
    if plan.features_folder:
        evict(plan.features_folder, run.cache.max_bytes, started)

    checks = outcome.results
    print_result(plan, outcome.scores, network.tasks, outcome.ablations, checks, outcome.selected, found.worst_groups)
    if refused := [check for check in checks if check.failure_reason]:
        reasons = "; ".join(f"{check.format} {check.failure_reason}" for check in refused)
        raise GateError(f"{len(refused)} of {len(checks)} files did not pass verification", got=reasons)
    if plan.constraints and not outcome.selected:
        raise no_file_fits_error(plan.constraints, checks)
    return outcome.bundle


def _export_and_verify(
    plan: "Plan",
    data: "Data",
    network: "Network",
    compression_result: "CompressionResult",
    histories: "list[History]",
    transfer: "ContinualMetrics | None",
) -> "RunResult":
    """Writes the files of a trained model and holds each against it.

    Args:
        plan: The run.
        data: Its samples.
        network: As it was trained.
        compressed: The same, smaller where that was asked for: what is exported.
        histories: What each phase did.
        transfer: How languages did that were learned one after another.
    """
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

    # The trained model's own answers are what every file has to give again.
    run = plan.run
    served = build_servable(
        compression_result.network,
        data.modalities,
        data.representative_dataset(run.calibration_samples),
        file_metadata(plan, network),
        compression_result.qat_fn,
        compressed=bool(plan.compressions),
    )
    test = cache_prepared_split(data, "test", plan.workdir)
    model = make_predict_fn(served.model)
    reference = predict_batches(model, test.batches(64), network.tasks)
    scores = evaluate(network.tasks, *reference, make_slice_masks(data.table, "test"))

    # Of several towers, how well it does without some of them.
    parts, shares = run_modality_ablation(compression_result.network, test, run_whole_model=bool(plan.compressions))

    served = with_validation_gate(plan.exports.values(), data, served, plan.workdir, run.verify.max_drop)
    bundle = create_bundle(plan.workdir / "bundle", make_manifest(plan, data, network), plan.exports, served)
    golden = pick_samples(data, served, model)
    checks = verify(
        bundle, golden, test, reference, run.verify, tuple(plan.compressions.values()), compression_result.kernel_sizes
    )
    chosen = select_file(plan.constraints, checks)
    bundle = finalize_bundle(bundle, data.table, golden, scores, parts, checks, chosen, transfer)
    return RunResult(histories, test, reference, scores, parts, shares, checks, chosen, bundle, transfer)


def find_learning_rates(run: Run) -> dict[str, float]:
    """Runs a learning rate range test of every phase instead of training; see `tune/lr_finder.py`."""
    from tfx_finetune.run.plan import open_run
    from tfx_finetune.run.setup import set_up
    from tfx_finetune.tune import lr_finder

    plan, resources = open_run(run)
    return lr_finder.find_learning_rates(*set_up(plan, resources))


@dataclass(frozen=True)
class TrainOptions(Run):
    """Options of the command: those of a run, and whether to look for its learning rates instead."""

    find_lr: bool = option(False, "train nothing; draw the loss over the learning rate into <workdir>/find_lr.svg")


def main() -> None:
    """Runs the command."""
    command.run(_run_command, TrainOptions(), __doc__ or "")


def _run_command(options: TrainOptions) -> None:
    run = extract_run(options)
    if options.find_lr:
        find_learning_rates(run)
        return
    try:
        train(run)
    except KeyboardInterrupt:
        progress.log("the same command goes on from the last epoch")
        raise


if __name__ == "__main__":
    main()
