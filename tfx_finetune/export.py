"""COMMAND: writes the files of a finished run again, in other formats or compressed, without training its phases again.

    python -m tfx_finetune.export --bundle=runs/tux/bundle --exports="tflite(), tflite(quantize='int16x8')"
    python -m tfx_finetune.export --bundle=runs/tux/bundle --compress="prune(), qat()"
    python -m tfx_finetune.export --bundle=runs/tux/bundle --constraints="size<2MB, drop<0.01"
    python -m tfx_finetune.export --bundle=runs/tux/bundle --plugins=archived --exports="keras_file(), archived()"

The run's work folder, in which the bundle lies, has what that needs: run.cfg and the trained weights. Calibration and
compression use the run's own data. Every file is verified again, and the bundle and the report are replaced.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from tfx_finetune.core import command, flagfile, plugins
from tfx_finetune.core.config import Run, option
from tfx_finetune.core.errors import UserError
from tfx_finetune.train import train


@dataclass(frozen=True)
class ExportOptions:
    """Options of the command."""

    bundle: str = option("", "the folder bundle/ of a finished run, in its work folder")
    exports: str = option("", "files to write; by default those of the run")
    compress: str = option("as before", "what makes the model smaller; empty for nothing")
    constraints: str = option("", "limits of the file that becomes model_best.tflite; by default those of the run")
    plugins: str = option("", f"{plugins.HELP}, beside those of the run")


def export(options: ExportOptions) -> None:
    """Runs what comes after training.

    Raises:
        UserError: The bundle does not lie in the work folder of a finished run.
    """
    folder = Path(options.bundle).expanduser().resolve().parent
    if not options.bundle or not (folder / "run.cfg").is_file() or not (folder / "checkpoints").is_dir():
        todo = "name the folder bundle/ inside the work folder of a run"
        raise UserError("no finished run to export", got=options.bundle or "nothing", hint=todo)
    run, _ = flagfile.parse_flags(["export", f"--flagfile={folder / 'run.cfg'}"], Run())
    compress = run.compress if options.compress == "as before" else options.compress
    exports, choose = options.exports or run.exports, options.constraints or run.constraints
    plugged = ", ".join(plugins.parse_names(f"{run.plugins}, {options.plugins}"))
    train(replace(run, workdir=str(folder), exports=exports, compress=compress, constraints=choose, plugins=plugged))


def main() -> None:
    """Runs the command."""
    command.run(export, ExportOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
