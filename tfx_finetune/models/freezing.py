"""Which groups of which tower a phase trains, and how fast."""

import math
import re
from collections.abc import Collection, Mapping

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import Backbone


def parse_per_tower(
    option: str, value: str, towers: Collection[str], pattern: str, expected: str, default: str
) -> dict[str, str]:
    """An option's value for each tower: one for all of them, or `image=5, text=all`.

    Args:
        option: Its name, for messages.
        value: What was given.
        towers: Names of all towers.
        pattern: Of a single value.
        allowed: What that is, in words.
        rest: The value of towers that are not named where others are.

    Raises:
        UserError: It is neither, or names a tower that there is not.
    """
    if "=" not in value:
        given = dict.fromkeys(towers, value.strip())
    else:
        parts = dict(part.partition("=")[::2] for part in value.split(","))
        named = {name.strip(): text.strip() for name, text in parts.items()}
        if unknown := [name for name in named if name not in towers]:
            raise UserError(f"--{option} names a tower that there is not", got=unknown[0], expected=list(towers))
        given = dict.fromkeys(towers, default) | named
    if wrong := [text for text in given.values() if not re.fullmatch(pattern, text)]:
        expected = f"{expected}; or one for each tower, such as image=..., text=..."
        raise UserError(f"--{option} is not understood", got=wrong[0], expected=expected)
    return given


def count_unfrozen_groups(backbone: Backbone, unfreeze: str) -> int:
    """How many of the backbone's groups, from the top, one tower's `unfreeze` means."""
    groups = backbone.groups
    if unfreeze == "all" or not backbone.pretrained_cfg.origin:
        return len(groups)
    if "." in unfreeze:
        return min(len(groups), math.ceil(float(unfreeze) * len(groups)))
    return min(len(groups), int(unfreeze))


def count_unfrozen_groups_per_tower(backbones: Mapping[str, Backbone], unfreeze: str) -> dict[str, int]:
    """How many groups of each tower, from the top, an `unfreeze` option means."""
    wanted = parse_unfreeze("unfreeze", unfreeze, list(backbones))
    return {tower: count_unfrozen_groups(backbone, wanted[tower]) for tower, backbone in backbones.items()}


def parse_unfreeze(option: str, unfreeze: str, towers: Collection[str]) -> dict[str, str]:
    """The `unfreeze` of each tower: a number of groups, a share of them, or `all`; raises as `by_tower`."""
    allowed = "a number of groups, a share such as 0.3, or all"
    return parse_per_tower(option, unfreeze, towers, r"all|\d+|0?\.\d+", allowed, default="0")


def parse_lr_multipliers(option: str, lr_multipliers: str, towers: Collection[str]) -> dict[str, float]:
    """The factor of each tower's learning rate; raises as `by_tower`."""
    found = parse_per_tower(option, lr_multipliers, towers, r"\d+(\.\d*)?|\.\d+", "a number", default="1")
    return {tower: float(text) for tower, text in found.items()}
