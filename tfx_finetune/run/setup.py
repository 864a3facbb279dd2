"""Loads the data of a validated run, and builds its untrained network and training settings."""

import keras
import tensorflow as tf

from tfx_finetune.core import hardware
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.build import build_model, build_towers
from tfx_finetune.models.frozen_heads import freeze_all_but_new_head
from tfx_finetune.models.load_weights import has_same_head_inputs, load_pretrained
from tfx_finetune.models.network import Network
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.resources import NO_RESOURCES, Resources
from tfx_finetune.training.auxiliary_losses import check_objectives
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.distillation import check_teacher_labels
from tfx_finetune.training.feature_cache import feature_cache_key, preprocessing_key
from tfx_finetune.types.plan import Plan


def set_up(plan: Plan, resources: Resources = NO_RESOURCES) -> tuple[Data, Network, TrainingContext]:
    """Seed all generators, load the data and build the network.

    The backbones determine the preparation of samples; the samples determine the classes of the heads.

    Raises:
        UserError: The data cannot be used.
    """
    keras.utils.set_random_seed(plan.run.seed)
    if plan.run.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(hardware.detect().precision)
    architecture, init = plan.architecture, resources.init_bundle
    backbones = build_towers(architecture, init)
    data = prepare_data(plan, {tower: backbone.pretrained_cfg for tower, backbone in backbones.items()}, resources)
    network = build_model(architecture, backbones, data.tasks)
    data = load_pretrained(network, backbones, data, init, plan.run.fusion)
    data = check_teacher_labels(data, resources.teachers, plan.run.distill)
    network = freeze_all_but_new_head(network, resources.language_extension)
    check_objectives(data, plan.auxiliary_losses)
    return data, network, training_context(plan, resources)


def training_context(plan: Plan, resources: Resources = NO_RESOURCES) -> TrainingContext:
    """Return the settings of a plan, and the opened bundles, that training needs."""
    return TrainingContext(
        workdir=plan.workdir,
        phases=plan.phases,
        seed=plan.run.seed,
        features_folder=plan.features_folder or plan.workdir / "features",
        precision=plan.run.cache.precision,
        cache_keys={tower: feature_cache_key(plan, tower) for tower in plan.towers},
        auxiliary_losses=plan.auxiliary_losses,
        teachers=resources.teachers,
        distill=plan.run.distill,
        teacher_keys={tower: preprocessing_key(plan, tower) for tower in plan.towers},
        same_head_inputs=has_same_head_inputs(plan.architecture, plan.run.fusion, resources.init_bundle),
    )
