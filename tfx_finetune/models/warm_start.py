"""Earlier bundle whose weights initialize a run (`--init`), as described by its manifest.

`load_weights.py` copies the weights after the network is built.
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
    """Bundle whose weights initialize a run.

    Attributes:
        path: Folder of the bundle.
        manifest: Content of its manifest.json.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def towers(self) -> dict[str, Spec]:
        """Return the backbone specs by tower."""
        return {tower: parse_spec(spec) for tower, spec in self.manifest["backbones"].items()}

    @property
    def digest(self) -> str:
        """Return the SHA-256 checksum of the Keras file with the weights."""
        return str(self.manifest["sha256"][self.manifest["files"]["keras"]["path"]])


def open_init_bundle(path: str) -> InitBundle | None:
    """Open the bundle of `--init`; return None if the path is empty.

    Raises:
        UserError: If the folder is not a bundle, a file is missing or changed, or the weights cannot be read by layer.
    """
    return InitBundle(*manifest.read_network_manifest(path, "--init")) if path else None


def resolve_backbones(backbone: str, init_bundle: InitBundle | None) -> str:
    """Return the value of `--backbone`, replaced by the bundle's or the package's default if it is `default`.

    Args:
        backbone: Value of the option.
        init_bundle: Bundle of `--init`, or None.

    Examples:
        >>> resolve_backbones("default", None)
        'efficientnet_lite0()'
    """
    if backbone != "default":
        return backbone
    if not init_bundle:
        return _DEFAULT_BACKBONE
    return ", ".join(f"{tower}={spec}" for tower, spec in init_bundle.towers.items())


def check_towers(init_bundle: InitBundle | None, towers: Mapping[str, Spec]) -> None:
    """Check that towers with the same name in the run and in the bundle are the same backbone.

    Args:
        init_bundle: Bundle of `--init`, or None.
        towers: Backbone specs of the run by tower.

    Raises:
        UserError: If a tower is another backbone or has other options, or no tower is in both.
    """
    if not init_bundle:
        return
    bundle_towers = init_bundle.towers
    if not set(bundle_towers) & set(towers):
        got = f"{', '.join(bundle_towers)} of {init_bundle.path}"
        raise UserError("The bundle of --init has no tower of the run", got=got, expected=list(towers))
    for tower in [tower for tower in towers if tower in bundle_towers]:
        spec, bundle_spec = towers[tower], bundle_towers[tower]
        is_same = BACKBONES[spec.name] is BACKBONES[bundle_spec.name]
        if not is_same or BACKBONES.resolve_options(spec) != BACKBONES.resolve_options(bundle_spec):
            hint = "leave out --backbone to use the backbones of the bundle"
            got = f"{tower}={bundle_spec} in {init_bundle.path}"
            raise UserError("The bundle of --init has another backbone", got=got, expected=f"{tower}={spec}", hint=hint)


def with_origin(init_bundle: InitBundle | None, tower: str, backbone: Backbone) -> Backbone:
    """Return a backbone with the bundle as the origin of its weights, so that it counts as pretrained.

    A tower that the bundle's run trained from scratch is then frozen and fine-tuned like any other.

    Args:
        init_bundle: Bundle of `--init`, or None.
        tower: Name of the tower.
        backbone: The tower before its weights are loaded.
    """
    if not init_bundle or tower not in init_bundle.towers:
        return backbone
    cfg = dataclasses.replace(backbone.pretrained_cfg, origin=str(init_bundle.path), sha256=init_bundle.digest)
    return dataclasses.replace(backbone, pretrained_cfg=cfg, from_scratch=not backbone.pretrained_cfg.origin)
