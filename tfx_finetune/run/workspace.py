"""STATION: the work folder belongs to one run: the same command goes on in it, another one is refused."""

import hashlib
import json
from pathlib import Path

from tfx_finetune.core import files, flagfile
from tfx_finetune.core.errors import UserError
from tfx_finetune.run.resources import Resources
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import Table

_NONE = Resources()
# These say where things lie, what becomes of what the phases trained, and where components are from that others name.
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


def claim_workdir(plan: Plan, resources: Resources = _NONE) -> None:
    """Makes the work folder and writes `run.cfg` into it, or checks that it holds this very run.

    Raises:
        UserError: The folder cannot be written, or holds another run or other files.
    """
    folder = files.make_writable_folder(plan.workdir, "work folder")
    path = folder / "run.cfg"
    todo = "choose another --workdir, or delete it"
    if path.exists():
        theirs = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        changed = set(_select_binding_flags(flagfile.format_flags(plan.run))) ^ set(_select_binding_flags(theirs))
        if changed:
            names = sorted({line.partition("=")[0] for line in changed})
            raise UserError(
                "the work folder holds another run", got=f"{folder} (differs in {', '.join(names)})", hint=todo
            )
    elif any(path.name != "find_lr.svg" for path in folder.iterdir()):
        raise UserError("the work folder holds files of something else", got=folder, hint=todo)
    files.remove_stale_parts(folder)
    with files.write_atomically(path) as draft:
        flagfile.write_flagfile(plan.run, draft, flagfile.format_command(path))
    _check_digest(
        plan.workdir,
        "bundles",
        _hash_bundles(resources),
        "a bundle of --init or --teacher changed since this run began",
    )


def check_same_data(workdir: Path, table: Table) -> None:
    """Checks that a run which goes on sees the samples with which it began.

    Raises:
        UserError: Samples were added, removed or changed.
    """
    rows = zip(table.digest, table.split, *table.columns.values(), strict=True)
    digest = hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()
    _check_digest(workdir, "data", digest, "the data changed since this run began")


def _check_digest(workdir: Path, name: str, digest: str, what: str) -> None:
    """Keeps a digest, or checks that it is the one that was kept."""
    path = workdir / "checkpoints" / f"{name}.sha256"
    if path.exists() and path.read_text() != digest:
        todo = "choose another --workdir, or delete it"
        raise UserError(what, got=workdir, hint=todo)
    with files.write_atomically(path) as draft:
        draft.write_text(digest)


def _hash_bundles(resources: Resources) -> str:
    """Digest of the bundles that a run begins with or learns from."""
    known = [resources.init_bundle.manifest] if resources.init_bundle else []
    known += [teacher.bundle.manifest for teacher in resources.teachers]
    return hashlib.sha256(json.dumps([manifest["sha256"] for manifest in known]).encode()).hexdigest()


def _select_binding_flags(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith(_CHANGEABLE_FLAGS)]
