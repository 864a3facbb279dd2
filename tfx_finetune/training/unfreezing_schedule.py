"""A phase as it is run: as one, in stages from the top, or tower by tower."""

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
    """The phase, or a phase a stage, each of which unfreezes some more groups from the top (gradual unfreezing,
    Howard and Ruder, arXiv 1801.06146, section 3.3).
    """
    wanted = parse_unfreeze(f"{name}.unfreeze", phase.unfreeze, towers)
    parse_lr_multipliers(f"{name}.rates", phase.lr_multipliers, towers)
    if phase.clip_norm and phase.clip_value:
        received = f"--{name}.clip_norm={phase.clip_norm}, --{name}.clip_value={phase.clip_value}"
        raise UserError("gradients are clipped in one way", got=received, hint="set one of them to 0")
    if phase.adapter:
        ADAPTERS.build(parse_spec(phase.adapter))
    if not phase.epochs:
        return {}
    if phase.unfreezing_stages > phase.epochs:
        raise UserError(f"--{name}.stages is more than its epochs", got=phase.unfreezing_stages, expected=phase.epochs)
    if phase.one_tower_at_a_time and len(towers) > 1:
        if phase.unfreezing_stages > 1:
            raise UserError(f"--{name}.in_turn and --{name}.stages do not go together", got=phase.unfreezing_stages)
        turns = {tower: f"{tower}={count}" for tower, count in wanted.items()}
        return {f"{name}_{tower}": dataclasses.replace(phase, unfreeze=turn) for tower, turn in turns.items()}
    each = phase.epochs // phase.unfreezing_stages
    found = {}
    for stage in range(1, phase.unfreezing_stages):
        share = stage / phase.unfreezing_stages
        parts = {tower: _scale_unfreeze(count, share) for tower, count in wanted.items()}
        part = next(iter(parts.values())) if len(parts) == 1 else ", ".join("=".join(each) for each in parts.items())
        found[f"{name}_{stage}"] = dataclasses.replace(phase, epochs=each, unfreeze=part)
    return found | {name: dataclasses.replace(phase, epochs=phase.epochs - each * (phase.unfreezing_stages - 1))}


def check_strategy(run: Run) -> None:
    """Raises a `UserError` where options of `--strategy` do not go together."""
    MERGES.build(parse_spec(run.merge))
    goes = {"merge": "per_language_then_merge", "languages": "sequential", "rehearsal": "sequential"}
    for name, strategy in goes.items():
        if run.strategy != strategy and getattr(run, name) != getattr(Run(), name):
            what = f"--{name} is for --strategy={strategy}"
            raise UserError(what, got=f"--strategy={run.strategy}", hint="leave it out")
    together = {"--mix": is_weighted(run.mixture), "--auxiliary_losses": run.auxiliary_losses}
    for flag in (flag for flag, value in together.items() if value and run.strategy != "joint"):
        what = f"{flag} has no part in --strategy={run.strategy}, which takes languages apart"
        raise UserError(what, got=run.strategy, hint=f"leave {flag} out")
    if run.strategy != "joint" and not run.finetune.epochs:
        what = f"--strategy={run.strategy} takes languages apart in phase tune, which has no epochs"
        raise UserError(what, got=run.finetune.epochs, hint="raise --finetune.epochs")


def _scale_unfreeze(unfreeze: str, fraction: float) -> str:
    if unfreeze.isdigit():
        return str(math.ceil(int(unfreeze) * fraction))
    return f"{(1.0 if unfreeze == 'all' else float(unfreeze)) * fraction:.4f}"
