"""Runs a command: help, flags, one-line errors and exit status."""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tfx_finetune.core import flagfile
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import iter_options
from tfx_finetune.core.quiet import capture_output

COMMANDS = ("benchmark", "data", "doctor", "evaluate", "export", "inspect", "predict", "serve", "train", "tune")
"""Names of the commands, each of which `python -m tfx_finetune.<name>` runs."""

# Flags that a stray argument is most likely meant for.
_SUGGESTED_FLAGS = ("bundle", "data")


def module_of(name: str) -> str:
    """Return the name of the module whose function `main` runs a command.

    Examples:
        >>> module_of("train"), module_of("tune")
        ('tfx_finetune.train', 'tfx_finetune.tune.__main__')
    """
    package = Path(__file__).parent.parent
    return f"tfx_finetune.{name}.__main__" if (package / name).is_dir() else f"tfx_finetune.{name}"


def run(
    main_fn: Callable[..., object],
    defaults: Any,
    doc: str,
    argv: Sequence[str] = (),
    needs_tensorflow: bool = True,
) -> None:
    """Parse the flags, call `main_fn` and exit.

    Exit status: 0 for success, 2 for an error of the user, 3 for a gate that is not met, 130 after an interrupt, 141 if
    the reader of the output has closed it.

    Args:
        main_fn: Called with the parsed options, and with the list of other arguments if it has a second parameter.
            Without a second parameter, other arguments are an error. `main_fn` may import TensorFlow; its module must
            not.
        defaults: Option record that defines the flags.
        doc: Docstring of the command, with which the help text begins.
        argv: Command line; default: `sys.argv`.
        needs_tensorflow: True if `main_fn` uses TensorFlow.
    """
    arguments = list(argv or sys.argv)
    if help_flags := {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(arguments[1:]):
        print(flagfile.format_usage(doc, defaults, full="--helpfull" in help_flags), end="")
        sys.exit(0)
    try:
        options, rest = flagfile.parse_flags(arguments, defaults)
        inputs = (options, rest)[: len(inspect.signature(main_fn).parameters)]
        if rest and len(inputs) == 1:
            raise _stray_argument_error(_command_name(arguments[0]), rest[0], defaults)
        if needs_tensorflow:
            _start_tensorflow()
        main_fn(*inputs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # Threads of a running tf.data pipeline delay a normal exit.
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        print(f"error: {UserError(error.strerror or str(error), got=error.filename)}", file=sys.stderr)
        sys.exit(2)


def _command_name(path: str) -> str:
    """Return the name of the command from `sys.argv[0]`: the module, or the package of a `__main__.py`."""
    return Path(path).parent.name if Path(path).stem == "__main__" else Path(path).stem


def _stray_argument_error(name: str, argument: str, defaults: Any) -> UserError:
    """Return the error for an argument of a command that takes only flags."""
    flags = [f"--{flag}={argument}" for flag, _, _ in iter_options(defaults) if flag in _SUGGESTED_FLAGS]
    return UserError(f"{name} takes only flags", got=argument, hint="say " + " or ".join(flags) if flags else "")


def _start_tensorflow() -> None:
    """Import TensorFlow, and discard what it prints once per process: it would bury the output of the command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with capture_output():
        import keras  # noqa: F401  (before TF-MOT, which would switch TensorFlow to Keras 2)
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")
        tf.transpose(tf.zeros((1, 2), tf.uint8))
