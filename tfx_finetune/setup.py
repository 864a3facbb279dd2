"""STATION: from a checked run to data and an untrained network, for commands that try things out."""

import keras

from tfx_finetune.core import hardware
from tfx_finetune.model import Network, build_model, build_tower
from tfx_finetune.pipeline import Data, prepare_data
from tfx_finetune.plan import Plan


def set_up(plan: Plan) -> tuple[Data, Network]:
    """Seeds everything, builds the tower, opens the data and puts the heads on."""
    keras.utils.set_random_seed(plan.run.seed)
    keras.config.set_dtype_policy(hardware.detect().precision)
    backbone = build_tower(plan)
    data = prepare_data(plan, backbone.card)
    return data, build_model(plan, backbone, data.tasks)
