"""A phase as it is run: as one, in stages from the top, or tower by tower."""

import dataclasses
import math
from collections.abc import Mapping

from tfx_finetune.core.config import Phase, Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets.mixture_weights import is_drawn
from tfx_finetune.models.freezing import factors, groups_wanted
from tfx_finetune.training.merging import MERGES
from tfx_finetune.types.components import ADAPTERS


def staged(name: str, phase: Phase, towers: Mapping[str, Spec]) -> dict[str, Phase]:
    """The phase, or a phase a stage, each of which unfreezes some more groups from the top (gradual unfreezing,
    Howard and Ruder, arXiv 1801.06146, section 3.3).
    """
    wanted = groups_wanted(f"{name}.unfreeze", phase.unfreeze, towers)
    factors(f"{name}.rates", phase.rates, towers)
    if phase.clip_norm and phase.clip_value:
        received = f"--{name}.clip_norm={phase.clip_norm}, --{name}.clip_value={phase.clip_value}"
        raise UserError("gradients are clipped in one way", received=received, todo="set one of them to 0")
    if phase.adapter:
        ADAPTERS.build(parse_spec(phase.adapter))
    if not phase.epochs:
        return {}
    if phase.stages > phase.epochs:
        raise UserError(f"--{name}.stages is more than its epochs", received=phase.stages, allowed=phase.epochs)
    if phase.in_turn and len(towers) > 1:
        if phase.stages > 1:
            raise UserError(f"--{name}.in_turn and --{name}.stages do not go together", received=phase.stages)
        turns = {tower: f"{tower}={count}" for tower, count in wanted.items()}
        return {f"{name}_{tower}": dataclasses.replace(phase, unfreeze=turn) for tower, turn in turns.items()}
    each = phase.epochs // phase.stages
    found = {}
    for stage in range(1, phase.stages):
        share = stage / phase.stages
        parts = {tower: _part(count, share) for tower, count in wanted.items()}
        part = next(iter(parts.values())) if len(parts) == 1 else ", ".join("=".join(each) for each in parts.items())
        found[f"{name}_{stage}"] = dataclasses.replace(phase, epochs=each, unfreeze=part)
    return found | {name: dataclasses.replace(phase, epochs=phase.epochs - each * (phase.stages - 1))}


def check_strategy(run: Run) -> None:
    """Raises a `UserError` where options of `--strategy` do not go together."""
    MERGES.build(parse_spec(run.merge))
    goes = {"merge": "per_language_then_merge", "languages": "sequential", "rehearsal": "sequential"}
    for name, strategy in goes.items():
        if run.strategy != strategy and getattr(run, name) != getattr(Run(), name):
            what = f"--{name} is for --strategy={strategy}"
            raise UserError(what, received=f"--strategy={run.strategy}", todo="leave it out")
    together = {"--mix": is_drawn(run.mix), "--objectives": run.objectives}
    for flag in (flag for flag, value in together.items() if value and run.strategy != "joint"):
        what = f"{flag} has no part in --strategy={run.strategy}, which takes languages apart"
        raise UserError(what, received=run.strategy, todo=f"leave {flag} out")
    if run.strategy != "joint" and not run.tune.epochs:
        what = f"--strategy={run.strategy} takes languages apart in phase tune, which has no epochs"
        raise UserError(what, received=run.tune.epochs, todo="raise --tune.epochs")


def _part(unfreeze: str, share: float) -> str:
    if unfreeze.isdigit():
        return str(math.ceil(int(unfreeze) * share))
    return f"{(1.0 if unfreeze == 'all' else float(unfreeze)) * share:.4f}"
