"""What documents say that can be typed can be: commands and their flags, components and their options, configs."""

import ast
import re
import shlex
from pathlib import Path

import nbformat
import pytest

from scripts.reference import COMMANDS, started
from tfx_finetune.core import config, flagfile
from tfx_finetune.core.options import iter_options, validate
from tfx_finetune.core.spec import parse_named_specs, parse_specs
from tfx_finetune.types.components import AUGMENTS, BACKBONES, COMPRESSIONS, EXPORTS, FUSIONS, OBJECTIVES, TASKS

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *CONFIGS,
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *(ROOT / "tfx_finetune" / f"{name}.py" for name in COMMANDS),
]
# Of benchmarks, and of OpenVINO's opt_in_out.
OTHERS = {"seeds", "tables", "only", "rows", "config", "opt_out"}
DEFAULTS = {name: started(name)[0] for name in COMMANDS}
KNOWN = {flag for defaults in DEFAULTS.values() for flag, _, _ in iter_options(defaults)}
GROUPS = {flag.partition(".")[0] for flag in KNOWN if "." in flag}
KINDS = {
    "backbone": (BACKBONES, parse_named_specs),
    "towers": (BACKBONES, parse_named_specs),
    "heads": (TASKS, parse_named_specs),
    "fusion": (FUSIONS, parse_specs),
    "augment": (AUGMENTS, parse_specs),
    "objectives": (OBJECTIVES, parse_specs),
    "compress": (COMPRESSIONS, parse_specs),
    "exports": (EXPORTS, parse_specs),
}


def text_of(path):
    """A page; of a notebook what stands in its cells, of a module its docstring."""
    if path.suffix == ".ipynb":
        return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return path.read_text(encoding="utf-8")


def commands(path):
    """(command, its arguments) of every line that runs one; what stands behind two blanks is a remark."""
    text = re.sub(r"\\\n#?\s*", "", text_of(path))
    for name, line in re.findall(r"python -m tfx_finetune\.(\w+)((?: [^\n`]*)?)", text):
        yield name, words(re.split(r"\s{2,}|\.\.\.$| [|>] ", line.strip())[0])


def words(line):
    """As a shell splits a line: parentheses without quotes are words of their own, of which it makes an error."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="()")
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(lexer)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_flag_exists(path):
    """Whatever looks like a flag is one of a command, a group of them, or one of those that other programs have."""
    said = re.findall(r"(?<![-\w])--([a-z]\w*(?:\.[a-z]\w*)?)", text_of(path))
    plain = {flag.removeprefix("no") if flag.removeprefix("no") in KNOWN else flag for flag in said}
    assert not plain - KNOWN - GROUPS - OTHERS - {"flagfile", "help", "helpfull"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_understood(path, monkeypatch):
    """By a shell too; its flags are those of this command, their values of the right kind, and what they name is
    registered.
    """
    monkeypatch.chdir(ROOT)
    for name, arguments in commands(path):
        assert all(word.strip("()") for word in arguments), "parentheses want quotes"
        found, _ = flagfile.parse_flags([name, *arguments], DEFAULTS[name])
        validate(found)
        # Examples of plug-ins name what only they bring.
        for option, (registry, parse) in KINDS.items() if not getattr(found, "plugins", "") else ():
            value = getattr(found, option, "")
            if value in ("", "default", "unchanged"):
                continue
            specs = parse(value, "") if parse is parse_named_specs else parse(value)
            for spec in specs.values() if isinstance(specs, dict) else specs:
                registry.options(spec)


def test_commands_are_found():
    """The test above sees those of a page, their arguments whole, and no remark."""
    said = list(commands(ROOT / "README.md"))
    assert ("export", ["--bundle=runs/photos/bundle", "--compress=prune(), qat()"]) in said
    assert {name for name, _ in said} >= {
        "train",
        "predict",
        "evaluate",
        "export",
        "benchmark",
        "serve",
        "tune",
        "data",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_on_two_screens(name):
    """It opens with what the command is for and the three commonest uses, and names every flag or its group."""
    defaults, doc = started(name)
    shown = flagfile.format_usage(doc, defaults).splitlines()
    assert len(shown) <= 80
    assert max(map(len, shown)) <= 120
    assert "COMMAND" not in shown[0]
    uses = [line for line in shown[:10] if f"    python -m tfx_finetune.{name}" in line]
    assert len(uses) >= 3 or name == "doctor"
    whole = flagfile.format_usage(doc, defaults, full=True)
    for flag, _, value in iter_options(defaults):
        assert f"--{flag}={value}" in whole
        assert any(f"--{flag}={value}" in line or f"--{flag.partition('.')[0]}. " in line for line in shown)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_has_its_numbers(path):
    """A table of what it gave, or the reason why there is none; folder.cfg is for data of one's own."""
    opening = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.search(r"^# Not measured", opening, re.MULTILINE) or "#   |---|" in opening or path.stem == "folder"
