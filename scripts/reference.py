"""Writes docs/reference/: a page for each registry and for each command, made of signatures, docstrings and options.

python scripts/reference.py     or: make reference
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tfx_finetune.core import command, config, flagfile
from tfx_finetune.core.options import iter_options
from tfx_finetune.core.config import Run
from tfx_finetune.core.registry import Registry
from tfx_finetune.datasets.modalities.tokenizers import TOKENIZERS
from tfx_finetune.training.merging import MERGES
from tfx_finetune.types.components import REGISTRIES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tfx_finetune"
FOLDER = ROOT / "docs" / "reference"
COMMANDS = sorted(
    path.stem for path in PACKAGE.glob("*.py") if path.read_text(encoding="utf-8").startswith('"""COMMAND')
)

_MADE = "Made by `make reference`: change the docstring or the option, not this page."


def pages() -> dict[str, str]:
    """Every page by its name: its Markdown."""
    found = {f"{plural(registry.kind)}.md": of_registry(registry) for registry in (*REGISTRIES, TOKENIZERS, MERGES)}
    found |= {f"{name}.md": of_command(name) for name in COMMANDS}
    return found | {"README.md": contents(found)}


def plural(kind: str) -> str:
    """Backbones, modalities, fusions."""
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


def contents(found: dict[str, str]) -> str:
    """The page that names all others, with the first line of each."""
    # Behind the title and the note, which are one paragraph.
    first = {page: text.split("\n\n")[1].partition("\n")[0] for page, text in found.items()}
    rows = [f"| [{page.removesuffix('.md')}]({page}) | {line} |" for page, line in first.items()]
    return "\n".join([f"# Reference\n{_MADE}\n", "| | |", "|---|---|", *rows, ""])


def of_registry(registry: Registry) -> str:
    """The page of a registry: every entry as a user writes it, and its docstring; those that are alike together."""
    title = plural(registry.kind).capitalize()
    package = importlib.import_module(registry.package)
    shown = [f"# {title}\n{_MADE}", (package.__doc__ or "").strip()]
    for name in registry:
        takes = f" ({registry.get_modality(name)})" if registry.kind in ("backbone", "augment") else ""
        shown.append(f"## {name}{takes}\n```python\n{registry.format_usage(name)}\n```\n{_markdown(registry, name)}")
    return "\n\n".join(shown) + "\n"


def of_command(name: str) -> str:
    """The page of a command: its docstring, and its flags; those of a run stand on the page of `train` alone."""
    defaults, doc = started(name)
    shown = [f"# {name}\n{_MADE}", (doc).strip()]
    shared = dict(_flags(Run())) if isinstance(defaults, Run) and name != "train" else {}
    if shared:
        shown.append("It has all flags of [train](train.md), and these, or these otherwise:")
    rows = [f"| `--{flag}` | {row} |" for flag, row in _flags(defaults) if shared.get(flag) != row]
    return "\n\n".join([*shown, "\n".join(["| flag | default | allowed | |", "|---|---|---|---|", *rows])]) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Writes all pages in place of those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.md"):
        stale.unlink()
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


def started(name: str) -> tuple[Any, str]:
    """The options of a command and its docstring, as it hands them to what all commands share."""
    module = importlib.import_module(f"tfx_finetune.{name}")
    with mock.patch.object(command, "run") as run:
        module.main()
    _, defaults, doc = run.call_args.args
    return defaults, doc


def _flags(defaults: Any) -> Iterator[tuple[str, str]]:
    """Every flag and the cells of its row: default, what is allowed, what it is."""
    for name, item, value in iter_options(defaults):
        low, high, choices = (item.metadata[key] for key in ("low", "high", "choices"))
        limits = f"at least {low}" if high is None else f"{low} to {high}"
        allowed = ", ".join(choices) if choices else limits if low is not None else type(value).__name__
        yield name, f"{f'`{value}`' if value != '' else ''} | {allowed} | {item.metadata['help']}"


def _markdown(registry: Registry, name: str) -> str:
    """A docstring as Markdown, its sections as lists; of its arguments those that a user may write."""
    written, found, section, skipped = registry.get_signature(name).parameters, [], "", False
    for line in (inspect.getdoc(registry[name]) or "").splitlines():
        if heading := re.fullmatch(r"(Args|Returns|Raises):", line):
            section = heading[1]
            found += [f"{section}:", ""] if section != "Args" else []
        elif section and (item := re.fullmatch(r"    (\w[\w, ]*): (.*)", line)):
            names = item[1].split(", ")
            skipped = section == "Args" and not set(names) & set(written)
            found += [] if skipped else [f"- {', '.join(f'`{each}`' for each in names)}: {item[2]}"]
        elif not (skipped and line):
            found.append(f"  {line.strip()}" if section and line else line)
    return "\n".join(found).strip() + _origin(registry[name])


def _origin(factory: Any) -> str:
    """Where an algorithm or its weights are from, if the docstring of its file says so and its own does not."""
    known, own = inspect.getdoc(inspect.getmodule(factory)) or "", inspect.getdoc(factory) or ""
    said = known.partition("\n\n")[0]
    return f"\n\n{said}" if "arXiv" in said and "arXiv" not in own else ""


if __name__ == "__main__":
    write()
