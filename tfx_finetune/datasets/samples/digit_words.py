"""Sample data: number words of the digits in about 75 languages, from the rules of Unicode's CLDR."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.types.components import SOURCES, Source

_RULE_SET = "%spellout-numbering"
Rules = Mapping[str, Sequence[tuple[str, str]]]
"""Rules (lowest number, text) in order, by name of the rule set."""


@SOURCES.register
def digit_words(languages: tuple[str, ...] = (), test: tuple[str, ...] = ()) -> Source:
    """Read the number words of the digits 0 to 9 (zero, one, two, ...), one sample per language and digit.

    They come from the npm package cldr-rbnf, which is downloaded into the cache. The column `group` is the language.
    Related languages share words, and some regional languages share all of them.

    Args:
        languages: Language tags such as de, fil, pt-PT or sr-Latn. Default: all without a region or a script.
        test: Languages of the test split; all others are training samples. Default: no splits.

    Raises:
        UserError: If a language does not exist, or the package cannot be downloaded.
    """
    rules = _load_rules(assets.fetch("cldr-rbnf"))
    tags = tuple(dict.fromkeys(languages or [tag for tag in rules if "-" not in tag]))
    for names, valid_names in ((tags, tuple(rules)), (test, tags)):
        for tag in names:
            if tag not in valid_names:
                hint = did_you_mean(tag, valid_names)
                raise UserError("digit_words() has no such language", got=tag, expected=valid_names, hint=hint)
    parts = {"train": [tag for tag in tags if tag not in test], "test": list(test)} if test else {"all": tags}
    if not all(parts.values()):
        raise UserError("digit_words() has no language left for training", got=", ".join(test))
    rows = [
        {
            "text": spell_digit(rules[tag], digit),
            "label": str(digit),
            "language": tag,
            "group": tag,
            "file": f"{tag}/{digit}",
            "split": part,
        }
        for part, part_tags in parts.items()
        for tag in part_tags
        for digit in range(10)
    ]
    return InMemorySource("digit_words", tuple(map(str, range(10))), (), group_columns_by_split(rows))


def _load_rules(folder: Path) -> dict[str, Rules]:
    """Return the rules of all languages with number words; `und` (undetermined) is not a language."""
    rules_by_language = {}
    for path in sorted(folder.glob("*.json")):
        rules = json.loads(path.read_text("utf-8"))["rbnf"]["rbnf"].get("SpelloutRules", {})
        if _RULE_SET in rules and path.stem != "und":
            rules_by_language[path.stem] = rules
    return rules_by_language


def spell_digit(rules: Rules, digit: int, name: str = _RULE_SET) -> str:
    """Spell a digit by CLDR's rules (Unicode Technical Standard 35, part 3, rule-based number formatting).

    The text is that of the last rule whose number is not above the digit. In it, `=%name=` is replaced by the text of
    another rule set.

    Args:
        rules: Rules of a language.
        digit: int, 0 to 9.
        name: Name of the rule set.

    Examples:
        >>> spell_digit({"%spellout-numbering": [("0", "zero;"), ("1", "one;")]}, 1)
        'one'
    """
    text = [text for lowest, text in rules[name] if lowest.isdigit() and int(lowest) <= digit][-1]
    return re.sub("=(%[^=]+)=", lambda match: spell_digit(rules, digit, match[1]), text.removesuffix(";"))
