"""What every command does around its work: help, flags, one-line errors, exit status."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from tfx_finetune.core import flagfile
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.quiet import quiet

Config = TypeVar("Config")


def run(
    work: Callable[[Config, list[str]], object],
    defaults: Config,
    doc: str,
    argv: Sequence[str] = (),
    tensorflow: bool = True,
) -> None:
    """Parses flags, calls `work(configuration, arguments)` and exits.

    Exit status: 0 done, 2 the user's error, 3 a gate not met, 130 interrupted, 141 where nobody reads on.

    Args:
        work: Does the command's work. TensorFlow may be imported in it, not before it.
        defaults: The configuration that defines the flags.
        doc: The command's docstring, which opens its help.
        argv: In place of `sys.argv`.
        tensorflow: Whether the work needs it.
    """
    arguments = list(argv or sys.argv)
    if asked := {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(arguments[1:]):
        print(flagfile.usage(doc, defaults, full="--helpfull" in asked), end="")
        sys.exit(0)
    try:
        configuration, rest = flagfile.parse(arguments, defaults)
        if tensorflow:
            _start_tensorflow()
        work(configuration, rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # threads of a running tf.data pipeline would hold a normal exit back
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        print(f"error: {error.strerror or error}; received: {error.filename}", file=sys.stderr)
        sys.exit(2)


def flags_alone(name: str, rest: list[str]) -> None:
    """Raises a `UserError` where data stands behind the flags of a command that takes none there."""
    if rest:
        raise UserError(f"{name} takes flags alone", received=rest[0], todo=f"say --data={rest[0]}")


def _start_tensorflow() -> None:
    """Imports TensorFlow and has it say what it says once a process, where it cannot bury the command's own lines."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with quiet():
        import keras  # noqa: F401  (before any compression toolkit, which would switch TensorFlow to Keras 2)
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")
        tf.transpose(tf.zeros((1, 2), tf.uint8))
