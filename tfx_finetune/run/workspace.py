"""The work folder of a run: the same command resumes the run in it, other runs are refused."""

import hashlib
import json
from pathlib import Path

from tfx_finetune.core import files, flagfile
from tfx_finetune.core.errors import UserError
from tfx_finetune.run.resources import NO_RESOURCES, Resources
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import Table

# Flags that do not influence the trained weights may change when a run is resumed.
_CHANGEABLE_FLAGS = (
    "--workdir=",
    "--cache.",
    "--verify.",
    "--merge=",
    "--compress=",
    "--exports=",
    "--metadata.",
    "--calibration_samples=",
    "--constraints=",
    "--plugins=",
)


def claim_workdir(plan: Plan, resources: Resources = NO_RESOURCES) -> None:
    """Create the work folder and write `run.cfg` into it, or check that it belongs to the same run.

    Args:
        plan: Validated options of the run.
        resources: Bundles and tables that the options open.

    Raises:
        UserError: If the folder cannot be written, or holds another run or other files.
    """
    folder = files.make_writable_folder(plan.workdir, "work folder")
    path = folder / "run.cfg"
    hint = "choose another --workdir, or delete this one"
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        changed = set(_select_binding_flags(flagfile.format_flags(plan.run))) ^ set(_select_binding_flags(lines))
        if changed:
            names = sorted({line.partition("=")[0] for line in changed})
            got = f"{folder} (differs in {', '.join(names)})"
            raise UserError("The work folder holds another run", got=got, hint=hint)
    elif any(path.name != "find_lr.svg" for path in folder.iterdir()):
        raise UserError("The work folder holds files of another program", got=folder, hint=hint)
    files.remove_stale_parts(folder)
    with files.write_atomically(path) as draft:
        flagfile.write_flagfile(plan.run, draft, flagfile.format_command(path))
    message = "A bundle of --init or --teacher changed since the run started"
    _check_digest(plan.workdir, "bundles", _hash_bundles(resources), message)


def check_same_data(workdir: Path, table: Table) -> None:
    """Check that a resumed run has the same samples as at its start.

    Raises:
        UserError: If samples were added, removed or changed.
    """
    rows = zip(table.digest, table.split, *table.columns.values(), strict=True)
    digest = hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()
    _check_digest(workdir, "data", digest, "The data changed since the run started")


def _check_digest(workdir: Path, name: str, digest: str, message: str) -> None:
    """Store a digest in the work folder, or check that it equals the stored one."""
    path = workdir / "checkpoints" / f"{name}.sha256"
    if path.exists() and path.read_text() != digest:
        raise UserError(message, got=workdir, hint="choose another --workdir, or delete this one")
    with files.write_atomically(path) as draft:
        draft.write_text(digest)


def _hash_bundles(resources: Resources) -> str:
    """Return the digest of the bundles of `--init` and `--teacher`."""
    manifests = [resources.init_bundle.manifest] if resources.init_bundle else []
    manifests += [teacher.bundle.manifest for teacher in resources.teachers]
    return hashlib.sha256(json.dumps([manifest["sha256"] for manifest in manifests]).encode()).hexdigest()


def _select_binding_flags(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith(_CHANGEABLE_FLAGS)]
