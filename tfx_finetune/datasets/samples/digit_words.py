"""The words of the digits in about 75 languages, as Unicode's CLDR spells numbers out."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.types.components import SOURCES, Source

_RULE_SET = "%spellout-numbering"
Rules = Mapping[str, Sequence[tuple[str, str]]]
"""(lowest number, text) in order, by name of the set of rules."""


@SOURCES.register
def digit_words(languages: tuple[str, ...] = (), test: tuple[str, ...] = ()) -> Source:
    """The digits 0 to 9 in writing, as one counts: zero, one, two, ...; one word a language and digit.

    Of the npm package cldr-rbnf, which is downloaded into the cache. `group` is the language. Related languages share
    words, and some regional ones all of them.

    Args:
        languages: Tags such as de, fil, pt-PT or sr-Latn; by default all without a region or a script.
        test: Languages to test on, the others being the training part.

    Raises:
        UserError: There is no such language, or the package cannot be had.
    """
    known = _load_rules(assets.fetch("cldr-rbnf"))
    wanted = tuple(dict.fromkeys(languages or [tag for tag in known if "-" not in tag]))
    for asked, allowed in ((wanted, tuple(known)), (test, wanted)):
        for tag in asked:
            if tag not in allowed:
                todo = did_you_mean(tag, allowed)
                raise UserError("digit_words has no such language", got=tag, expected=allowed, hint=todo)
    parts = {"train": [tag for tag in wanted if tag not in test], "test": list(test)} if test else {"all": wanted}
    if not all(parts.values()):
        raise UserError("digit_words has no language left to train on", got=", ".join(test))
    return InMemorySource(
        "digit_words", tuple(map(str, range(10))), (), {part: _make_columns(known, t) for part, t in parts.items()}
    )


def _make_columns(rules_by_language: Mapping[str, Rules], languages: Sequence[str]) -> dict[str, list[str]]:
    rows = [
        {
            "text": spell_digit(rules_by_language[tag], digit),
            "label": str(digit),
            "language": tag,
            "group": tag,
            "file": f"{tag}/{digit}",
        }
        for tag in languages
        for digit in range(10)
    ]
    return {column: [row[column] for row in rows] for column in rows[0]}


def _load_rules(folder: Path) -> dict[str, Rules]:
    """The rules of every language that spells numbers out; `und` is none."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        rules = json.loads(path.read_text("utf-8"))["rbnf"]["rbnf"].get("SpelloutRules", {})
        if _RULE_SET in rules and path.stem != "und":
            found[path.stem] = rules
    return found


def spell_digit(rules: Rules, digit: int, name: str = _RULE_SET) -> str:
    """A digit in words, by CLDR's rules (Unicode Technical Standard 35, part 3, rule-based number formatting).

    Of a digit these are the text of the last rule whose number is not above it, in which `=%name=` stands for what
    another set of rules makes of it.
    """
    text = [text for lowest, text in rules[name] if lowest.isdigit() and int(lowest) <= digit][-1]
    return re.sub("=(%[^=]+)=", lambda other: spell_digit(rules, digit, other[1]), text.removesuffix(";"))
