"""Documents agree with the code: commands and their flags, components and their options, configs, docstrings, sizes."""

import ast
import re
import shlex
from pathlib import Path

import nbformat
import pytest

from scripts.reference import COMMANDS, read_command
from tfx_finetune.core import command, flagfile
from tfx_finetune.core.options import iter_options, validate
from tfx_finetune.core.spec import parse_named_specs, parse_specs
from tfx_finetune.types.components import AUGMENTS, BACKBONES, COMPRESSIONS, EXPORTS, FUSIONS, OBJECTIVES, TASKS

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "tfx_finetune"
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))
GUIDES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *CONFIGS,
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *(ROOT / f"{command.module_of(name).replace('.', '/')}.py" for name in COMMANDS),
]
# Flags of benchmarks, and of OpenVINO's opt_in_out.
OTHER_FLAGS = {"seeds", "tables", "only", "rows", "config", "opt_out"}
DEFAULTS = {name: read_command(name)[0] for name in COMMANDS}
FLAGS = {flag for defaults in DEFAULTS.values() for flag, _, _ in iter_options(defaults)}
GROUPS = {flag.partition(".")[0] for flag in FLAGS if "." in flag}
SPEC_OPTIONS = {
    "backbone": (BACKBONES, parse_named_specs),
    "heads": (TASKS, parse_named_specs),
    "fusion": (FUSIONS, parse_specs),
    "augment": (AUGMENTS, parse_specs),
    "auxiliary_losses": (OBJECTIVES, parse_specs),
    "compress": (COMPRESSIONS, parse_specs),
    "exports": (EXPORTS, parse_specs),
}
# A summary that begins with one of these words has no verb or no noun.
BANNED_OPENINGS = {"What", "Which", "Those", "Of", "As", "Its", "How", "Whether", "Where", "Who", "Why"}
MAX_README_LINES = 100
MAX_TOP_LEVEL_NAMES = 26


def read_text(path):
    """Return the text of a page: the cells of a notebook, the docstring of a module."""
    if path.suffix == ".ipynb":
        return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return path.read_text(encoding="utf-8")


def iterate_commands(path):
    """Yield (command, arguments) of every line that runs a command; text after two spaces is a remark."""
    text = re.sub(r"\\\n#?\s*", "", read_text(path))
    for name, line in re.findall(r"python -m tfx_finetune\.(\w+)((?: [^\n`]*)?)", text):
        yield name, split_words(re.split(r"\s{2,}|\.\.\.$| [|>] ", line.strip())[0])


def split_words(line):
    """Split a line as a shell does; unquoted parentheses, which are an error of a shell, are words of their own."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="()")
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(lexer)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_flag_exists(path):
    """Every word that looks like a flag is a flag of a command, a group of flags, or a flag of another program."""
    words = re.findall(r"(?<![-\w])--([a-z]\w*(?:\.[a-z]\w*)?)", read_text(path))
    flags = {flag.removeprefix("no") if flag.removeprefix("no") in FLAGS else flag for flag in words}
    assert not flags - FLAGS - GROUPS - OTHER_FLAGS - {"flagfile", "help", "helpfull"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_valid(path, monkeypatch):
    """A shell and the command accept the line: flags exist, values are valid, and components are registered."""
    monkeypatch.chdir(ROOT)
    for name, arguments in iterate_commands(path):
        assert all(word.strip("()") for word in arguments), "quote parentheses"
        options, _ = flagfile.parse_flags([name, *arguments], DEFAULTS[name])
        validate(options)
        # Examples of plug-ins name components that only the plug-in registers.
        if getattr(options, "plugins", ""):
            continue
        for option, (registry, parse) in SPEC_OPTIONS.items():
            value = getattr(options, option, "")
            if value in ("", "default", "unchanged"):
                continue
            specs = parse(value, "") if parse is parse_named_specs else parse(value)
            for spec in specs.values() if isinstance(specs, dict) else specs:
                registry.resolve_options(spec)


def test_commands_are_found():
    """The test above sees the commands of the README and the guides, with full arguments and without remarks."""
    readme = list(iterate_commands(ROOT / "README.md"))
    assert ("predict", ["--bundle=runs/stamps/bundle", "flower.jpg"]) in readme
    guides = [line for path in GUIDES for line in iterate_commands(path)]
    assert ("export", ["--bundle=runs/photos/bundle", "--compress=prune(), qat()"]) in guides
    names = {"train", "predict", "evaluate", "export", "benchmark", "serve", "tune", "data", "doctor", "inspect"}
    assert {name for name, _ in readme + guides} >= names


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_on_two_screens(name):
    """The help begins with a summary and the three commonest uses, and names every flag or its group."""
    defaults, doc = read_command(name)
    lines = flagfile.format_usage(doc, defaults).splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 120
    assert "COMMAND" not in lines[0]
    uses = [line for line in lines[:10] if f"    python -m tfx_finetune.{name}" in line]
    assert len(uses) >= 3 or name == "doctor"
    full_help = flagfile.format_usage(doc, defaults, full=True)
    for flag, _, value in iter_options(defaults):
        assert f"--{flag}={value}" in full_help
        assert any(f"--{flag}={value}" in line or f"--{flag.partition('.')[0]}. " in line for line in lines)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_has_its_scores(path):
    """A config has a table of its scores or says why it has none; folder.cfg is for your own data."""
    comments = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.search(r"^# Not measured", comments, re.MULTILINE) or "#   |---|" in comments or path.stem == "folder"


def test_links_lead_to_files():
    """Every relative link of the documents leads to a file of the repository."""
    for path in PAGES:
        if path.suffix not in (".md", ".ipynb"):
            continue
        for target in re.findall(r"\]\((?!https?:|[#\"'])([^)#\s]+)(?:#[^)\s]*)?\)", read_text(path)):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links {target}"


def test_the_readme_is_short():
    """The README can be read in two minutes."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_the_package_has_few_names_at_its_top():
    """Commands and packages of stages are the only names at the top of the package."""
    names = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert len(names) <= MAX_TOP_LEVEL_NAMES, sorted(names)


def test_docstrings_begin_with_a_verb_or_a_noun():
    """Summaries of docstrings, those of constants included, do not begin with a relative or interrogative word."""
    summaries = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.value.splitlines()[0]}"
        for folder in ("tfx_finetune", "tests", "scripts", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if re.split(r"\W", node.value.value, maxsplit=1)[0] in BANNED_OPENINGS
    ]
    assert not summaries, "\n".join(summaries)
