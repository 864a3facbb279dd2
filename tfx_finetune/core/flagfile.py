"""Converts option records to absl flags, help texts and flag files, and back.

`run.cfg` is a flag file: one `--name=value` per line, read by `--flagfile=run.cfg`. The flag files of configs/ are part
of the package, so that `--flagfile=configs/quickstart.cfg` works in every folder.
"""

import dataclasses
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
"""Folder of the flag files that come with the package."""
_DEFINE: dict[type, Any] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def parse_flags(argv: Sequence[str], defaults: Config) -> tuple[Config, list[str]]:
    """Parse a command line, with its `--flagfile`, into an option record.

    Args:
        argv: Name of the program and its arguments, as in `sys.argv`.
        defaults: Option record that defines the flags and their default values.

    Returns:
        The options, and the arguments that are not flags.

    Raises:
        UserError: If a flag is unknown or has a value of the wrong type, or a flag file cannot be read.
    """
    values = flags.FlagValues()
    options = list(iter_options(defaults))
    for name, item, value in options:
        _DEFINE[type(value)](name, value, item.metadata["help"], flag_values=values)
    try:
        rest = values([resolve_flagfile(argument) for argument in argv])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [name for name, _, _ in options]
        raise UserError("Unknown flag", got=f"--{error.flagname}", hint=_suggest_flag(error.flagname, names)) from None
    except flags.Error as error:
        raise UserError("Invalid flag", got=str(error)) from None
    present = {name: values[name].value for name, _, _ in options if values[name].present}
    if "preset" in present:
        defaults = config.with_preset(defaults, present["preset"])
    return replace_options(defaults, present), rest


def resolve_flagfile(argument: str) -> str:
    """Return `--flagfile=configs/NAME.cfg` with the path in the package, unless the current folder has the file."""
    flag, _, path = argument.partition("=")
    package_path = CONFIGS_FOLDER.parent / path
    is_foreign = flag.lstrip("-") != "flagfile" or not path.startswith("configs/") or Path(path).exists()
    return argument if is_foreign or not package_path.is_file() else f"{flag}={package_path}"


def write_flagfile(run: Any, path: Path, header_comment: str = "") -> None:
    """Write all options as a flag file that begins with a comment."""
    comment = "".join(f"# {line}\n" for line in header_comment.splitlines())
    path.write_text(comment + "".join(f"{line}\n" for line in format_flags(run)), encoding="utf-8")


def format_command(path: Path) -> str:
    """Return the command line that runs a flag file."""
    return shlex.join(["python", "-m", "tfx_finetune.train", f"--flagfile={path}"])


def format_flags(run: Any) -> list[str]:
    """Return all options as `--name=value`.

    Examples:
        >>> from tfx_finetune.core.config import DistillOptions
        >>> format_flags(DistillOptions())
        ['--alpha=0.5', '--temperature=2.0']
    """
    return [f"--{name}={value}" for name, _, value in iter_options(run)]


def format_usage(doc: str, defaults: Any, full: bool = False) -> str:
    """Return the help text of a command: its docstring, its own flags, and the flags of a run.

    Args:
        doc: Docstring of the command.
        defaults: Option record that defines the flags.
        full: If True, explain every flag; else name groups of flags such as `--image.`, which fits on two screens.
    """
    shared = set() if type(defaults) is config.Run else {item.name for item in dataclasses.fields(config.Run)}
    options = sorted(iter_options(defaults), key=lambda option: option[0].partition(".")[0] in shared)
    lines = [doc.strip(), "", "flags:", "  --flagfile=FILE  read flags from a file, one --name=value per line"]
    if any("." in name for name, _, _ in options) and not full:
        lines[-1] += "; --helpfull explains all flags"
        lines += _explain_flags([option for option in options if "." not in option[0]]) + _explain_groups(defaults)
    else:
        lines += _explain_flags(options)
    return "\n".join(lines) + "\n"


def _explain_flags(options: Iterable[tuple[str, dataclasses.Field[Any], Any]]) -> list[str]:
    """Return lines with every flag, its default and its help text; both phases share a line."""
    flags_by_text: dict[tuple[str, str], list[str]] = {}
    for name, item, value in options:
        choices = f" ({' | '.join(item.metadata['choices'])})" if item.metadata["choices"] else ""
        key = name.rpartition(".")[2], f"{item.metadata['help']}{choices}"
        flags_by_text.setdefault(key, []).append(f"--{name}={value}")
    return [line for (_, text), names in flags_by_text.items() for line in _wrap(f"{' '.join(names)}  {text}")]


def _explain_groups(defaults: Any) -> list[str]:
    """Return lines with every group of flags: its description, and its flags with their defaults."""
    groups: dict[type, dict[str, Any]] = {}
    for item in dataclasses.fields(defaults):
        if dataclasses.is_dataclass(value := getattr(defaults, item.name)):
            groups.setdefault(type(value), {})[item.name] = value
    lines = []
    for record, instances in groups.items():
        description = (record.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        values = {name: [getattr(value, name) for value in instances.values()] for name in _get_field_names(record)}
        defaults_text = " ".join(f"{name}={'|'.join(dict.fromkeys(map(str, v)))}" for name, v in values.items())
        lines += _wrap(f"{' '.join(f'--{name}.' for name in instances)}  {description}: {defaults_text}")
    return lines


def _get_field_names(record: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(record)]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(
        text, 118, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False, break_long_words=False
    )


def _suggest_flag(name: str, names: Sequence[str]) -> str:
    return (did_you_mean(name, names) or "--help lists the flags").replace("did you mean ", "did you mean --")
