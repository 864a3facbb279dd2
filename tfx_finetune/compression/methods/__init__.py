"""Compressions of `--compress`, in order: TF-MOT methods that train the model with a cosine learning rate schedule."""

from tfx_finetune.compression.methods import cluster, prune, qat

__all__ = ["cluster", "prune", "qat"]
