"""Bundle of a tower with random weights, for tests that load single towers."""

from pathlib import Path

import keras

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core import files
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.deploy.pack import create_bundle, describe_tower
from tfx_finetune.models.layer_names import list_layer_names
from tfx_finetune.models.network import Network
from tfx_finetune.types.components import BACKBONES, EXPORTS, MODALITIES, TASKS
from tfx_finetune.types.deployment import Servable
from tfx_finetune.types.task import ClassLabels


def tower_bundle(folder: Path, spec: str, labels: tuple[str, ...] = ("a", "b", "c")) -> Bundle:
    """Write the bundle of a backbone and a head with random weights, without the results of its verification."""
    backbone = BACKBONES.build(parse_spec(spec))
    tower = backbone.modality
    task = TASKS.build(parse_spec("classify(init='glorot')"), ClassLabels(labels, (1,) * len(labels), 9))
    logits = task.head(backbone.features)["logits"]
    network = Network(
        keras.Model({tower: backbone.inputs}, {"label/logits": logits}),
        {tower: backbone},
        {"label": task},
        head_inputs=(backbone.features,),
    )
    model = keras.Model({tower: backbone.inputs}, {"label/scores": task.decode({"logits": logits})["scores"]})
    modality = MODALITIES.build(Spec(tower), backbone.pretrained_cfg)
    manifest = {
        "heads": {"label": {"task": "classify()", "labels": list(labels), "counts": [1] * len(labels), "samples": 9}},
        "backbones": {tower: spec},
        "towers": {tower: describe_tower(tower, {}, backbone.pretrained_cfg)},
        "layer_names": list_layer_names(network),
    }
    servable = Servable(model, {tower: modality}, {"label": task.labels.names}, {})
    bundle = create_bundle(folder, manifest, {"keras_file()": EXPORTS.build(Spec("keras_file"))}, servable)
    verification = {"verified": {"keras": True}, "sha256": {"model.keras": files.sha256(folder / "model.keras")}}
    bundle.write_json("manifest.json", dict(bundle.manifest) | verification)
    return Bundle.open(folder)
