"""Options <-> absl flags <-> flag files, all made from a default instance of a configuration.

`run.cfg` is a flag file: one `--name=value` a line, read by `--flagfile=run.cfg`. Those of configs/ are part of the
package: `--flagfile=configs/quickstart.cfg` is found in any folder.
"""

import dataclasses
import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from tfx_finetune.core import config
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.options import iter_options, replace_options

Config = TypeVar("Config")
CONFIGS_FOLDER = Path(__file__).parent.parent / "configs"
"""The flag files that come with the package."""
_DEFINE: dict[type, Any] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def parse_flags(argv: Sequence[str], defaults: Config) -> tuple[Config, list[str]]:
    """Parses a command line, `--flagfile` included, into a configuration.

    Args:
        argv: The program's name and its arguments, as in `sys.argv`.
        defaults: Defines which flags exist, and their values where they are not given.

    Returns:
        The configuration, and the arguments that are not flags.

    Raises:
        UserError: A flag is unknown or has a value of a wrong type, or a flag file cannot be read.
    """
    values = flags.FlagValues()
    leaves = list(iter_options(defaults))
    for name, item, value in leaves:
        _DEFINE[type(value)](name, value, item.metadata["help"], flag_values=values)
    try:
        rest = values([resolve_flagfile(argument) for argument in argv])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [name for name, _, _ in leaves]
        raise UserError("unknown flag", got=f"--{error.flagname}", hint=_suggest_flag(error.flagname, names)) from None
    except flags.Error as error:
        raise UserError(f"bad flag: {error}") from None
    given = {name: values[name].value for name, _, _ in leaves if values[name].present}
    if "preset" in given:
        defaults = config.with_preset(defaults, given["preset"])
    return replace_options(defaults, given), rest


def resolve_flagfile(argument: str) -> str:
    """`--flagfile=configs/NAME.cfg` with the package's own file of that name where the current folder has none."""
    flag, _, path = argument.partition("=")
    known = CONFIGS_FOLDER.parent / path
    here = flag.lstrip("-") != "flagfile" or not path.startswith("configs/") or Path(path).exists()
    return argument if here or not known.is_file() else f"{flag}={known}"


def write_flagfile(run: Any, path: Path, header_comment: str = "") -> None:
    """Writes every option as a flag file that begins with the comment `opening`."""
    comment = "".join(f"# {line}\n" for line in header_comment.splitlines())
    path.write_text(comment + "".join(f"{line}\n" for line in format_flags(run)), encoding="utf-8")


def format_command(path: Path) -> str:
    """The command line of the run that a flag file describes."""
    return shlex.join(["python", "-m", "tfx_finetune.train", f"--flagfile={path}"])


def format_flags(run: Any) -> list[str]:
    """Every option of a configuration as `--name=value`."""
    return [f"--{name}={value}" for name, _, value in iter_options(run)]


def format_usage(doc: str, defaults: Any, full: bool = False) -> str:
    """The help text of a command: its docstring, its own flags, and those of a run.

    Args:
        doc: The command's docstring.
        defaults: Defines the flags.
        full: Whether every flag is explained; else groups of flags, such as `--image.`, are named, which takes two
            screens at most.
    """
    shared = set() if type(defaults) is config.Run else {item.name for item in dataclasses.fields(config.Run)}
    leaves = sorted(iter_options(defaults), key=lambda leaf: leaf[0].partition(".")[0] in shared)
    shown = [strip_heading(doc), "", "flags:", "  --flagfile=FILE  read flags from a file, one --name=value a line"]
    if any("." in name for name, _, _ in leaves) and not full:
        shown[-1] += "; --helpfull explains all"
        shown += _explain_flags([leaf for leaf in leaves if "." not in leaf[0]]) + _explain_groups(defaults)
    else:
        shown += _explain_flags(leaves)
    return "\n".join(shown) + "\n"


def strip_heading(doc: str) -> str:
    """A module's docstring without what tells a reader of the code which part of the package it is."""
    text = re.sub(r"^(COMMAND|STATION)[^:]*: ", "", doc.strip())
    return text[:1].upper() + text[1:]


def _explain_flags(leaves: Iterable[tuple[str, dataclasses.Field, Any]]) -> list[str]:
    """Every flag with its default and what it is, those of both phases together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, item, value in leaves:
        choices = f" ({' | '.join(item.metadata['choices'])})" if item.metadata["choices"] else ""
        key = name.rpartition(".")[2], f"{item.metadata['help']}{choices}"
        alike.setdefault(key, []).append(f"--{name}={value}")
    return [line for (_, text), flagged in alike.items() for line in _wrap(f"{' '.join(flagged)}  {text}")]


def _explain_groups(defaults: Any) -> list[str]:
    """Every group of flags: what it is about, and its flags with their defaults, those of both phases together."""
    alike: dict[type, dict[str, Any]] = {}
    for item in dataclasses.fields(defaults):
        if dataclasses.is_dataclass(value := getattr(defaults, item.name)):
            alike.setdefault(type(value), {})[item.name] = value
    shown = []
    for kind, named in alike.items():
        about = (kind.__doc__ or "").strip().rstrip(".")
        values = {name: [getattr(value, name) for value in named.values()] for name in _get_field_names(kind)}
        flagged = " ".join(f"{name}={'|'.join(dict.fromkeys(map(str, each)))}" for name, each in values.items())
        shown += _wrap(f"{' '.join(f'--{name}.' for name in named)}  {about}: {flagged}")
    return shown


def _get_field_names(kind: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(kind)]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(
        text, 118, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False, break_long_words=False
    )


def _suggest_flag(name: str, names: Sequence[str]) -> str:
    return (did_you_mean(name, names) or "--help lists the flags").replace("did you mean ", "did you mean --")
