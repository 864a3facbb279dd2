"""Pruning, clustering and quantization-aware training through tf_keras."""
