"""Divides a phase into the phases of gradual unfreezing, or into one phase per tower."""

import dataclasses
import math
from collections.abc import Mapping

from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets.mixture_weights import is_weighted
from tfx_finetune.models.freezing import parse_lr_multipliers, parse_unfreeze
from tfx_finetune.training.merging import MERGES
from tfx_finetune.types.components import ADAPTERS


def gradual_unfreezing(name: str, phase: Phase, towers: Mapping[str, Spec]) -> dict[str, Phase]:
    """Return the phases that a phase is trained in, by name.

    A phase with `unfreezing_stages` becomes one phase per stage, each of which unfreezes more groups from the top
    (gradual unfreezing, Howard and Ruder, arXiv 1801.06146, section 3.3). A phase with `one_tower_at_a_time` becomes
    one phase per tower. A phase without epochs becomes none.

    Args:
        name: Name of the phase, `frozen` or `finetune`.
        phase: Options of the phase.
        towers: Backbone specs by tower.

    Raises:
        UserError: If options of the phase are malformed or contradict each other.
    """
    unfreeze = parse_unfreeze(f"{name}.unfreeze", phase.unfreeze, towers)
    parse_lr_multipliers(f"{name}.lr_multipliers", phase.lr_multipliers, towers)
    if phase.clip_norm and phase.clip_value:
        got = f"--{name}.clip_norm={phase.clip_norm}, --{name}.clip_value={phase.clip_value}"
        raise UserError("Gradients are clipped by norm or by value, not by both", got=got, hint="set one of them to 0")
    if phase.adapter:
        ADAPTERS.build(parse_spec(phase.adapter))
    if not phase.epochs:
        return {}
    stages = phase.unfreezing_stages
    if stages > phase.epochs:
        raise UserError(
            f"--{name}.unfreezing_stages is larger than --{name}.epochs", got=stages, expected=f"at most {phase.epochs}"
        )
    if phase.one_tower_at_a_time and len(towers) > 1:
        if stages > 1:
            message = f"--{name}.one_tower_at_a_time cannot be combined with --{name}.unfreezing_stages"
            raise UserError(message, got=stages, hint="leave one of them out")
        return {
            f"{name}_{tower}": dataclasses.replace(phase, unfreeze=f"{tower}={groups}")
            for tower, groups in unfreeze.items()
        }
    epochs = phase.epochs // stages
    phases = {}
    for stage in range(1, stages):
        scaled = {tower: _scale_unfreeze(groups, stage / stages) for tower, groups in unfreeze.items()}
        option = next(iter(scaled.values())) if len(scaled) == 1 else ", ".join(map("=".join, scaled.items()))
        phases[f"{name}_{stage}"] = dataclasses.replace(phase, epochs=epochs, unfreeze=option)
    return phases | {name: dataclasses.replace(phase, epochs=phase.epochs - epochs * (stages - 1))}


def check_strategy(run: Run) -> None:
    """Check that the options of `--strategy` fit together.

    Raises:
        UserError: If an option is for another strategy, or phase `finetune` has no epochs.
    """
    MERGES.build(parse_spec(run.merge))
    strategies = {"merge": "per_language_then_merge", "language_order": "sequential", "rehearsal": "sequential"}
    for name, strategy in strategies.items():
        if run.strategy != strategy and getattr(run, name) != getattr(Run(), name):
            message = f"--{name} needs --strategy={strategy}"
            raise UserError(message, got=f"--strategy={run.strategy}", hint=f"leave --{name} out")
    joint_options = {"--mixture": is_weighted(run.mixture), "--auxiliary_losses": run.auxiliary_losses}
    for flag in (flag for flag, value in joint_options.items() if value and run.strategy != "joint"):
        message = f"{flag} needs --strategy=joint, which trains all languages together"
        raise UserError(message, got=f"--strategy={run.strategy}", hint=f"leave {flag} out")
    if run.strategy != "joint" and not run.finetune.epochs:
        message = f"--strategy={run.strategy} needs epochs in phase finetune, which trains the languages separately"
        raise UserError(message, got=f"--finetune.epochs={run.finetune.epochs}", hint="raise --finetune.epochs")


def _scale_unfreeze(unfreeze: str, fraction: float) -> str:
    """Return the groups of a stage: `unfreeze` times `fraction`, rounded up if it is a number of groups."""
    if unfreeze.isdigit():
        return str(math.ceil(int(unfreeze) * fraction))
    return f"{(1.0 if unfreeze == 'all' else float(unfreeze)) * fraction:.4f}"
