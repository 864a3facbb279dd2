"""Random inputs for backbones of every modality."""

import math

import numpy as np

from tfx_finetune.types.components import Backbone


def batch(backbone: Backbone, count: int = 2) -> np.ndarray:
    """Return distinct random samples as the modality prepares them: uint8 pixels, float32 waveforms or int32 tokens."""
    return {"image": _pixels, "audio": _waveforms, "text": _tokens}[backbone.modality](backbone, count)


def _pixels(backbone: Backbone, count: int) -> np.ndarray:
    return patches(*backbone.inputs.shape[2:], count)


def patches(size: int, channels: int, count: int) -> np.ndarray:
    """Return images of patches, uint8 (count, size, size, channels); a deep network cannot tell noise images apart."""
    small = np.random.default_rng(0).integers(0, 256, (count, 4, 4, channels)).astype(np.uint8)
    return small.repeat(math.ceil(size / 4), axis=1).repeat(math.ceil(size / 4), axis=2)[:, :size, :size]


def _waveforms(backbone: Backbone, count: int) -> np.ndarray:
    """Return chirps of distinct pitch that start and end within the input."""
    rng, size = np.random.default_rng(0), backbone.pretrained_cfg.size
    time = np.arange(size) / size
    start, sweep = rng.uniform(100, 2_000, (2, count, 1)) * size / backbone.pretrained_cfg.sample_rate
    waves = 0.3 * np.sin(2 * np.pi * (start * time + sweep * time**2)) * (np.abs(time - 0.5) < 0.4)
    return (waves + 0.001 * rng.normal(size=waves.shape)).astype(np.float32)


def _tokens(backbone: Backbone, count: int) -> np.ndarray:
    """Return token IDs of texts of random length, with padding ID 0."""
    rng, size = np.random.default_rng(0), backbone.pretrained_cfg.size
    tokens = rng.integers(1, 100, (count, size)).astype(np.int32)
    return np.where(np.arange(size) < rng.integers(size // 4 + 1, size + 1, (count, 1)), tokens, 0).astype(np.int32)
