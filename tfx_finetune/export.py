"""Export the model of a finished run again, in other formats or compressed, without training its phases again.

    python -m tfx_finetune.export --bundle=runs/tux/bundle --exports="tflite(), tflite(quantize='int16x8')"
    python -m tfx_finetune.export --bundle=runs/tux/bundle --compress="prune(), qat()"
    python -m tfx_finetune.export --bundle=runs/tux/bundle --constraints="size<2MB, score_drop<0.01"
    python -m tfx_finetune.export --bundle=runs/tux/bundle --plugins=archived --exports="keras_file(), archived()"

The bundle must be in the work folder of its run, which holds run.cfg and the trained weights. Calibration and
compression use the data of the run. Every file is verified again; the bundle and the report are replaced.
Exit status: 0 success, 2 user error, 3 a file failed verification.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from tfx_finetune.core import command, flagfile, plugins
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import option
from tfx_finetune.train import train


@dataclass(frozen=True)
class ExportOptions:
    """Options of the command."""

    bundle: str = option("", "folder bundle/ of a finished run, in its work folder")
    exports: str = option("", "formats to export; default: those of the run")
    compress: str = option("unchanged", "compressions; empty for none; default: those of the run")
    constraints: str = option("", "constraints that select model_best.tflite; default: those of the run")
    plugins: str = option("", f"{plugins.HELP}, in addition to those of the run")


def export(options: ExportOptions) -> None:
    """Export and verify the trained model of a finished run.

    Raises:
        UserError: If the bundle is not in the work folder of a finished run.
    """
    folder = Path(options.bundle).expanduser().resolve().parent
    if not options.bundle or not (folder / "run.cfg").is_file() or not (folder / "checkpoints").is_dir():
        hint = "name the folder bundle/ inside the work folder of a run"
        raise UserError(
            "--bundle is not in the work folder of a finished run", got=options.bundle or "(empty)", hint=hint
        )
    run, _ = flagfile.parse_flags(["export", f"--flagfile={folder / 'run.cfg'}"], Run())
    compress = run.compress if options.compress == "unchanged" else options.compress
    exports, constraints = options.exports or run.exports, options.constraints or run.constraints
    all_plugins = ", ".join(plugins.parse_names(f"{run.plugins}, {options.plugins}"))
    train(
        replace(
            run, workdir=str(folder), exports=exports, compress=compress, constraints=constraints, plugins=all_plugins
        )
    )


def main() -> None:
    """Run the command."""
    command.run(export, ExportOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
