"""Ways of making a trained model smaller, by TF-MOT."""

from tfx_finetune.compressions import cluster, prune, qat

__all__ = ["cluster", "prune", "qat"]
