"""COMMAND and MAIN PATH: data in, a verified bundle out.

    python -m tfx_finetune.train --data=photos/          a folder with a sub-folder for each class
    python -m tfx_finetune.train --flagfile=configs/tux_classify.cfg --workdir=runs/tux --tune.epochs=3
    python -m tfx_finetune.train --data=photos/ --budget=best --choose="size<5MB, drop<0.01"

The work folder ends up with run.cfg (reproduces the run), checkpoints/, tensorboard/, report.html and bundle/.
The same command goes on where an interrupted run stopped. Exit status: 0 done, 2 an error to mend, 3 a file that
did not pass verification.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfx_finetune.core import command, progress
from tfx_finetune.core.config import Run, option, run_of
from tfx_finetune.core.errors import GateError

if TYPE_CHECKING:
    from tfx_finetune.bundle.bundle import Bundle
    from tfx_finetune.compression.compress import Compressed
    from tfx_finetune.datasets.pipeline import Data
    from tfx_finetune.evaluation.continual_metrics import Transfer
    from tfx_finetune.models.network import Network
    from tfx_finetune.report.summary import Outcome
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
    from tfx_finetune.deploy.selection import nothing_fits
    from tfx_finetune.report.html import write_report
    from tfx_finetune.report.summary import report
    from tfx_finetune.report.terminal import say_result
    from tfx_finetune.run import workspace
    from tfx_finetune.run.plan import open_run
    from tfx_finetune.run.setup import set_up
    from tfx_finetune.training.continual import fit
    from tfx_finetune.training.feature_cache import evict, forget

    # Everything a configuration can have wrong, before weights or data are touched.
    started = time.time()
    plan, resources = open_run(run)
    workspace.claim(plan, resources)
    data, network, context = set_up(plan, resources)
    if plan.compressions:
        check_layers(network)
    workspace.same_data(plan.workdir, data.table)

    # First the heads on the frozen tower, then the tower's top groups with them.
    histories, transfer = fit(network, data, context, run, plan.route)

    # Without --compress, the network as it is.
    compressed = compress(network, data, plan.compressions, context, run.calibration)
    histories += compressed.histories

    # Every file is held against the trained model.
    outcome = _deliver(plan, data, network, compressed, histories, transfer)
    found = report(plan, data, outcome)
    write_report(plan.workdir / "report.html", found)
    forget(plan.workdir / "features")
    if plan.features_folder:
        evict(plan.features_folder, run.cache.max_bytes, started)

    checks = outcome.checks
    say_result(plan, outcome.scores, network.tasks, outcome.parts, checks, outcome.chosen, found.gaps)
    if refused := [check for check in checks if check.reason]:
        reasons = "; ".join(f"{check.format} {check.reason}" for check in refused)
        raise GateError(f"{len(refused)} of {len(checks)} files did not pass verification", received=reasons)
    if plan.limits and not outcome.chosen:
        raise nothing_fits(plan.limits, checks)
    return outcome.bundle


def _deliver(
    plan: "Plan",
    data: "Data",
    network: "Network",
    compressed: "Compressed",
    histories: "list[History]",
    transfer: "Transfer | None",
) -> "Outcome":
    """Writes the files of a trained model and holds each against it.

    Args:
        plan: The run.
        data: Its samples.
        network: As it was trained.
        compressed: The same, smaller where that was asked for: what is exported.
        histories: What each phase did.
        transfer: How languages did that were learned one after another.
    """
    from tfx_finetune.deploy.gate import gated
    from tfx_finetune.deploy.golden import choose
    from tfx_finetune.deploy.manifest import file_metadata, manifest
    from tfx_finetune.deploy.pack import create, finish
    from tfx_finetune.deploy.selection import best
    from tfx_finetune.deploy.servable import servable
    from tfx_finetune.deploy.verify import verify
    from tfx_finetune.evaluation.scores import evaluate, predictions
    from tfx_finetune.evaluation.slices import slices
    from tfx_finetune.ops.functional import predictor
    from tfx_finetune.report.modality_ablation import subsets
    from tfx_finetune.report.summary import Outcome
    from tfx_finetune.training.phase_data import prepared

    # The trained model's own answers are what every file has to give again.
    run = plan.run
    served = servable(
        compressed.network,
        data.modalities,
        data.examples(run.calibration),
        file_metadata(plan, network),
        compressed.rounded,
        compressed=bool(plan.compressions),
    )
    test = prepared(data, "test", plan.workdir)
    model = predictor(served.model)
    reference = predictions(model, test.batches(64), network.tasks)
    scores = evaluate(network.tasks, *reference, slices(data.table, "test"))

    # Of several towers, how well it does without some of them.
    parts, shares = subsets(compressed.network, test, whole=bool(plan.compressions))

    served = gated(plan.exports.values(), data, served, plan.workdir, run.verify.max_drop)
    bundle = create(plan.workdir / "bundle", manifest(plan, data, network), plan.exports, served)
    golden = choose(data, served, model)
    checks = verify(bundle, golden, test, reference, run.verify, tuple(plan.compressions.values()), compressed.sizes)
    chosen = best(plan.limits, checks)
    bundle = finish(bundle, data.table, golden, scores, parts, checks, chosen, transfer)
    return Outcome(histories, test, reference, scores, parts, shares, checks, chosen, bundle, transfer)


def find_learning_rates(run: Run) -> dict[str, float]:
    """Runs a learning rate range test of every phase instead of training; see `tune/lr_finder.py`."""
    from tfx_finetune.run.plan import open_run
    from tfx_finetune.run.setup import set_up
    from tfx_finetune.tune import lr_finder

    plan, resources = open_run(run)
    return lr_finder.find_learning_rates(*set_up(plan, resources))


@dataclass(frozen=True)
class Train(Run):
    """Options of the command: those of a run, and whether to look for its learning rates instead."""

    find_lr: bool = option(False, "train nothing; draw the loss over the learning rate into <workdir>/find_lr.svg")


def main() -> None:
    """Runs the command."""
    command.run(_train, Train(), __doc__ or "")


def _train(options: Train) -> None:
    run = run_of(options)
    if options.find_lr:
        find_learning_rates(run)
        return
    try:
        train(run)
    except KeyboardInterrupt:
        progress.say("the same command goes on from the last epoch")
        raise


if __name__ == "__main__":
    main()
