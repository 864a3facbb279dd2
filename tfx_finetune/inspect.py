"""Show one sample after every step of a run, with shapes, dtypes and ranges; trains nothing.

    python -m tfx_finetune.inspect --data=photos/
    python -m tfx_finetune.inspect --flagfile=configs/tux_classify.cfg
    python -m tfx_finetune.inspect --list                list all components with their options, and all configs
    python -m tfx_finetune.inspect model.tflite          metadata, inputs and outputs of a TFLite file, as JSON

Exit status: 0 success, 2 user error.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfx_finetune.core import command, flagfile, plugins
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.core.options import option

if TYPE_CHECKING:
    from tfx_finetune.datasets.pipeline import Data
    from tfx_finetune.models.network import Network
    from tfx_finetune.types.aliases import Batch
    from tfx_finetune.types.plan import Plan


@dataclass(frozen=True)
class InspectOptions(Run):
    """Options of the command."""

    list: bool = option(False, "list all components with their options")


def inspect(options: InspectOptions, files: list[str]) -> None:
    """Print the metadata of files, the components, or one sample after every step."""
    if files:
        show_files(files)
    elif options.list:
        list_components(options.plugins)
        list_configs()
    else:
        walk_sample(options)


def show_files(paths: Sequence[str]) -> None:
    """Print one JSON line per TFLite file: its metadata, inputs and outputs.

    Raises:
        UserError: If a file cannot be read.
    """
    from tfx_finetune.deploy.formats import tflite_metadata
    from tfx_finetune.ops import litert

    for path in paths:
        try:
            content = Path(path).read_bytes()
            reader = litert.open_interpreter(content, 1)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError("The file is not a TFLite file", got=f"{path} ({first_line(error)})") from None
        tensors = {
            name: [f"{detail['name']} {detail['dtype'].__name__} {detail['shape'].tolist()}" for detail in details]
            for name, details in (("inputs", reader.get_input_details()), ("outputs", reader.get_output_details()))
        }
        print(
            json.dumps(
                {"file": path, **tensors, "metadata": tflite_metadata.read_metadata(content)}, ensure_ascii=False
            )
        )


def list_components(modules: str) -> None:
    """Print all components: their options and the first line of their docstrings."""
    from tfx_finetune.training.merging import MERGES
    from tfx_finetune.types.components import REGISTRIES

    plugins.load(modules)
    for registry in (*REGISTRIES, MERGES):
        print(f"{registry.kind}:")
        for name in registry:
            doc = (registry[name].__doc__ or "").strip().partition("\n")[0]
            print(f"  {registry.format_usage(name)}\n      {doc}")


def list_configs() -> None:
    """Print the flag files of the package with their first sentences."""
    print("configs:")
    for path in sorted(flagfile.CONFIGS_FOLDER.glob("*.cfg")):
        opening = " ".join(
            line.strip("# ") for line in path.read_text(encoding="utf-8").partition("#\n")[0].splitlines()
        )
        print(f"  --flagfile=configs/{path.name}\n      {opening.partition('. ')[0].rstrip('.')}")


def walk_sample(run: Run) -> None:
    """Print the parts of a run, and the first training sample after every step."""
    from tfx_finetune.run.plan import open_run
    from tfx_finetune.run.setup import set_up

    plan, resources = open_run(run)
    print(f"source     {plan.source}")
    for tower, spec in plan.towers.items():
        print(f"tower      {tower}={spec}")
    data, network, _ = set_up(plan, resources)
    for split in ("train", "val", "test"):
        print(f"{split:<10} {data.table.size(split)} samples")
    for head, task in data.tasks.items():
        print(f"{head:<10} {len(task.labels.names)} classes: {', '.join(task.labels.names[:20])}")
    _show_network(plan, network, _show_sample(plan, data))


def _show_sample(plan: "Plan", data: "Data") -> "Batch":
    """Print the first training sample after every step of its preparation, and return its model inputs."""
    import tensorflow as tf

    from tfx_finetune.types.localization import MultiSampleAugment

    member = data.evenly_spaced_mask("train", 1)
    raw, prepared = data.read_raw_contents(member)[0], data.prepared_inputs(member)
    print_summary("file", data.table.file[member][0])
    for tower, modality in data.modalities.items():
        print(f"tower      {tower}")
        content = raw[tower]
        sample = {modality.column: modality.decode(tf.constant(content)) if content else modality.empty_value()}
        print_summary("raw", content)
        print_summary("decoded", sample[modality.column].numpy())
        for position, (takes, augment) in enumerate(plan.augments.values()):
            if isinstance(augment, MultiSampleAugment):
                print(f"augment {position + 1:<6} combines several samples; not shown")
            elif takes == modality.column:
                sample = augment(sample, tf.constant([plan.run.seed, position], tf.int64))
                print_summary(f"augment {position + 1}", sample[modality.column].numpy())
        print_summary("prepared", prepared[tower])
    return prepared


def _show_network(plan: "Plan", network: "Network", prepared: "Batch") -> None:
    """Print the part that each phase trains, and the outputs of the heads for a prepared sample."""
    from tfx_finetune.models.freezing import count_unfrozen_groups_per_tower
    from tfx_finetune.models.split import split_model
    from tfx_finetune.training.engine import make_inference_fn

    for name, phase in plan.phases.items():
        trunks, _ = split_model(network, phase.unfreeze)
        for tower, backbone in network.backbones.items():
            count = count_unfrozen_groups_per_tower(network.backbones, phase.unfreeze)[tower]
            print(f"{name:<10} trains {count} of {len(backbone.groups)} groups of {tower} and the heads")
            if tower in trunks:
                print_summary("  trunk", make_inference_fn(trunks[tower], 1)(prepared[tower]))
    outputs = network.model(prepared, training=False)
    for head, task in network.tasks.items():
        logits = {"logits": outputs[f"{head}/logits"]}
        print_summary(f"{head}/logits", logits["logits"])
        for name, value in task.decode(logits).items():
            print_summary(f"{head}/{name}", value)


def print_summary(step: str, value: Any) -> None:
    """Print the shape, dtype and range of a value."""
    import numpy as np

    if isinstance(value, (bytes, str)):
        text = f"{len(value)} bytes" if isinstance(value, bytes) else value
    else:
        array = np.asarray(value)
        text = f"{array.dtype} {array.shape}  {array.min():.4g} to {array.max():.4g}, mean {array.mean():.4g}"
    print(f"{step:<14} {text}")


def main() -> None:
    """Run the command."""
    command.run(inspect, InspectOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
