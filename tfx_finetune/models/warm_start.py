"""What a run starts from where that is an earlier bundle, as far as its manifest tells: `--init`.

`inherit.py` takes the weights over, when the network is built.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx_finetune.core import manifest
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.types.components import BACKBONES, Backbone

_DEFAULT_BACKBONE = "efficientnet_lite0()"


@dataclass(frozen=True)
class InitBundle:
    """A bundle whose weights a run starts from.

    Attributes:
        path: Its folder.
        manifest: What it says about itself.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def towers(self) -> dict[str, Spec]:
        """Its backbones."""
        return {tower: parse_spec(spec) for tower, spec in self.manifest["backbones"].items()}

    @property
    def digest(self) -> str:
        """Checksum of the file with its weights."""
        return str(self.manifest["sha256"][self.manifest["files"]["keras"]["path"]])


def open_init_bundle(path: str) -> InitBundle | None:
    """Open the bundle of `--init`; return None if the path is empty.

    Raises:
        UserError: It is no bundle, was altered, or holds no weights that could be taken over.
    """
    return InitBundle(*manifest.read_network_manifest(path, "--init")) if path else None


def resolve_backbones(backbone: str, init_bundle: InitBundle | None) -> str:
    """The backbones of a run as it names them; else those of the bundle that it starts from, or the usual one."""
    if backbone != "default":
        return backbone
    return (
        ", ".join(f"{tower}={spec}" for tower, spec in init_bundle.towers.items()) if init_bundle else _DEFAULT_BACKBONE
    )


def check_towers(init_bundle: InitBundle | None, towers: Mapping[str, Spec]) -> None:
    """Checks that towers of the same name are the same backbones.

    Raises:
        UserError: One is another, of another size or with other options, or no tower is in both.
    """
    if not init_bundle:
        return
    theirs = init_bundle.towers
    if not set(theirs) & set(towers):
        received = f"{', '.join(theirs)} of {init_bundle.path}"
        raise UserError("--init has none of the run's towers", got=received, expected=list(towers))
    for tower in [tower for tower in towers if tower in theirs]:
        mine, other = towers[tower], theirs[tower]
        if BACKBONES[mine.name] is not BACKBONES[other.name] or BACKBONES.resolve_options(
            mine
        ) != BACKBONES.resolve_options(other):
            todo = "leave --backbone and --towers out, which then are those of the bundle"
            received = f"{tower}={other} in {init_bundle.path}"
            raise UserError("--init has another backbone", got=received, expected=f"{tower}={mine}", hint=todo)


def with_origin(init_bundle: InitBundle | None, tower: str, backbone: Backbone) -> Backbone:
    """The backbone with the bundle as the origin of its weights, so that it counts as pretrained.

    One that was trained from scratch then is frozen and fine-tuned like any other.
    """
    if not init_bundle or tower not in init_bundle.towers:
        return backbone
    card = dataclasses.replace(backbone.pretrained_cfg, origin=str(init_bundle.path), sha256=init_bundle.digest)
    return dataclasses.replace(backbone, pretrained_cfg=card, from_scratch=not backbone.pretrained_cfg.origin)
