"""STATION: from a checked run to data and an untrained network."""

import keras
import tensorflow as tf

from tfx_finetune.core import hardware
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.build import build_model, build_towers
from tfx_finetune.models.frozen_heads import grown
from tfx_finetune.models.load_weights import inherit
from tfx_finetune.models.network import Network
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.training.auxiliary_losses import sensible
from tfx_finetune.training.distillation import enrolled
from tfx_finetune.types.plan import Plan


def set_up(plan: Plan) -> tuple[Data, Network]:
    """Seeds everything, then builds: the weights say how samples are prepared, the samples what the heads predict.

    Raises:
        UserError: The data cannot be used as it is.
    """
    keras.utils.set_random_seed(plan.run.seed)
    if plan.run.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(hardware.detect().precision)
    backbones = build_towers(plan)
    data = prepare_data(plan, {tower: backbone.card for tower, backbone in backbones.items()})
    network = build_model(plan, backbones, data.tasks)
    data = inherit(network, backbones, data, plan)
    return sensible(enrolled(data, plan), plan), grown(network, plan)
