"""What every command does around its work: help, flags, one-line errors, exit status."""

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

# What a word without a flag was most likely meant for, where a command has one of these.
_SUGGESTED_FLAGS = ("bundle", "data")


def run(
    main_fn: Callable[..., object],
    defaults: Any,
    doc: str,
    argv: Sequence[str] = (),
    needs_tensorflow: bool = True,
) -> None:
    """Parses flags, calls `work` and exits.

    Exit status: 0 done, 2 the user's error, 3 a gate not met, 130 interrupted, 141 where nobody reads on.

    Args:
        work: Does the command's work, of a configuration; with a second parameter it takes what is no flag, and where
            it has none that is an error. TensorFlow may be imported in it, not before it.
        defaults: The configuration that defines the flags.
        doc: The command's docstring, which opens its help.
        argv: In place of `sys.argv`.
        tensorflow: Whether the work needs it.
    """
    arguments = list(argv or sys.argv)
    if asked := {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(arguments[1:]):
        print(flagfile.format_usage(doc, defaults, full="--helpfull" in asked), end="")
        sys.exit(0)
    try:
        configuration, rest = flagfile.parse_flags(arguments, defaults)
        given = (configuration, rest)[: len(inspect.signature(main_fn).parameters)]
        if rest and len(given) == 1:
            raise _stray_argument_error(Path(arguments[0]).stem, rest[0], defaults)
        if needs_tensorflow:
            _start_tensorflow()
        main_fn(*given)
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


def _stray_argument_error(name: str, word: str, defaults: Any) -> UserError:
    """What is wrong with a word that stands behind the flags of a command that takes flags alone."""
    meant = [f"--{flag}={word}" for flag, _, _ in iter_options(defaults) if flag in _SUGGESTED_FLAGS]
    return UserError(f"{name} takes flags alone", got=word, hint="say " + " or ".join(meant) if meant else "")


def _start_tensorflow() -> None:
    """Imports TensorFlow and has it say what it says once a process, where it cannot bury the command's own lines."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with capture_output():
        import keras  # noqa: F401  (before any compression toolkit, which would switch TensorFlow to Keras 2)
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")
        tf.transpose(tf.zeros((1, 2), tf.uint8))
