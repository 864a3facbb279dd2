"""Options that select, per tower, the layer groups that a phase trains and their learning rate multipliers."""

import math
import re
from collections.abc import Collection, Mapping

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import Backbone


def parse_per_tower(
    option: str, value: str, towers: Collection[str], pattern: str, expected: str, default: str
) -> dict[str, str]:
    """Parse an option with one value for all towers, or one value per tower such as `image=5, text=all`.

    Args:
        option: Name of the option without dashes, for error messages.
        value: Text of the option.
        towers: Names of all towers.
        pattern: Regular expression of a single value.
        expected: Description of the valid values, for error messages.
        default: Value of the towers that the option does not name.

    Returns:
        Value of each tower.

    Raises:
        UserError: If a value does not match the pattern, or a tower is unknown.

    Examples:
        >>> parse_per_tower("finetune.unfreeze", "image=5", ["image", "text"], r"\\d+", "a number", default="0")
        {'image': '5', 'text': '0'}
    """
    if "=" not in value:
        values = dict.fromkeys(towers, value.strip())
    else:
        pairs = dict(part.partition("=")[::2] for part in value.split(","))
        by_tower = {tower.strip(): text.strip() for tower, text in pairs.items()}
        if unknown := [tower for tower in by_tower if tower not in towers]:
            raise UserError(f"--{option} names an unknown tower", got=unknown[0], expected=list(towers))
        values = dict.fromkeys(towers, default) | by_tower
    if invalid := [text for text in values.values() if not re.fullmatch(pattern, text)]:
        expected = f"{expected}, or one value per tower, such as image=..., text=..."
        raise UserError(f"--{option} has an invalid value", got=invalid[0], expected=expected)
    return values


def parse_unfreeze(option: str, unfreeze: str, towers: Collection[str]) -> dict[str, str]:
    """Parse an `unfreeze` option: the number or fraction of the top layer groups to train, or `all`.

    Args:
        option: Name of the option without dashes, such as `finetune.unfreeze`.
        unfreeze: Text of the option.
        towers: Names of all towers.

    Returns:
        Number, fraction or `all` of each tower, as text; `0` for towers that the option does not name.

    Raises:
        UserError: If a value is invalid, or a tower is unknown.

    Examples:
        >>> parse_unfreeze("finetune.unfreeze", "image=0.3", ["image", "text"])
        {'image': '0.3', 'text': '0'}
    """
    expected = "a number of groups, a fraction such as 0.3, or all"
    return parse_per_tower(option, unfreeze, towers, r"all|\d+|0?\.\d+", expected, default="0")


def parse_lr_multipliers(option: str, lr_multipliers: str, towers: Collection[str]) -> dict[str, float]:
    """Parse an `lr_multipliers` option: a factor of the learning rate for all towers or for each of them.

    Args:
        option: Name of the option without dashes, such as `finetune.lr_multipliers`.
        lr_multipliers: Text of the option.
        towers: Names of all towers.

    Returns:
        Multiplier of each tower; 1 for towers that the option does not name.

    Raises:
        UserError: If a value is not a number, or a tower is unknown.

    Examples:
        >>> parse_lr_multipliers("finetune.lr_multipliers", "text=0.1", ["image", "text"])
        {'image': 1.0, 'text': 0.1}
    """
    values = parse_per_tower(option, lr_multipliers, towers, r"\d+(\.\d*)?|\.\d+", "a number", default="1")
    return {tower: float(text) for tower, text in values.items()}


def count_unfrozen_groups(backbone: Backbone, unfreeze: str) -> int:
    """Return the number of top layer groups that the `unfreeze` value of one tower selects.

    A randomly initialized backbone is always trained as a whole.

    Args:
        backbone: The tower.
        unfreeze: A number of groups, a fraction (rounded up to whole groups), or `all`.
    """
    num_groups = len(backbone.groups)
    if unfreeze == "all" or not backbone.pretrained_cfg.origin:
        return num_groups
    count = math.ceil(float(unfreeze) * num_groups) if "." in unfreeze else int(unfreeze)
    return min(num_groups, count)


def count_unfrozen_groups_per_tower(backbones: Mapping[str, Backbone], unfreeze: str) -> dict[str, int]:
    """Return the number of top layer groups of each tower that an `unfreeze` option selects."""
    values = parse_unfreeze("unfreeze", unfreeze, list(backbones))
    return {tower: count_unfrozen_groups(backbone, values[tower]) for tower, backbone in backbones.items()}
