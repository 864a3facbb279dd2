"""Ways of making a trained model smaller, by TF-MOT.

Named by `--compress`, in order; each trains on, at a rate that falls as a cosine.
"""

from tfx_finetune.compression.methods import cluster, prune, qat

__all__ = ["cluster", "prune", "qat"]
