"""Input of the exports: the trained model with decoding and preprocessing."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from tfx_finetune.evaluation.scores import decode_outputs
from tfx_finetune.models.build import to_float32
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import collect_tower_outputs
from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.tasks import localization
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import Modality
from tfx_finetune.types.deployment import Servable


def build_servable(
    network: Network,
    modalities: Mapping[str, Modality],
    representative_dataset: Batch,
    metadata: Mapping[str, str],
    qat_fn: Callable[[dict[str, tf.Tensor]], dict] | None = None,
    compressed: bool = False,
) -> Servable:
    """Add the decoding of each task to the trained model.

    Args:
        network: Trained model. It is rebuilt in float32 if it was trained in mixed precision.
        modalities: Preprocessing by tower.
        representative_dataset: Prepared training inputs for calibration.
        metadata: Metadata of the files; see `manifest.file_metadata`.
        qat_fn: Prepared inputs -> `<head>/logits`, with the fake quantization of quantization-aware training.
        compressed: bool. True if the model is compressed and has no graph of its towers. Default False.
    """
    network = to_float32(network)
    return Servable(
        model=build_submodel(network.model.input, decode_outputs(network.tasks, network.model.output), "servable"),
        modalities=modalities,
        labels={head: task.labels.names for head, task in network.tasks.items()},
        per_group_heads=tuple(head for head, task in network.tasks.items() if task.heads_by),
        postprocess_fns={
            head: task.localization.postprocess_fn for head, task in network.tasks.items() if task.localization
        },
        nms_inputs=localization.collect_nms_inputs(network.tasks),
        helper_files=tuple(
            task.localization.helper_file
            for task in network.tasks.values()
            if task.localization and task.localization.helper_file
        ),
        representative_dataset=representative_dataset,
        metadata=metadata,
        qat_fn=qat_fn and (lambda inputs: decode_outputs(network.tasks, qat_fn(inputs))),
        tower_outputs={} if compressed else collect_tower_outputs(network),
    )
