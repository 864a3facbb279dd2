"""Compare the preparation of images with bare decompression.

    python benchmarks/pipeline.py

JPEG photographs of three sizes, on all cores: images per second of this package's decoding and preparing, of
libjpeg-turbo (Pillow), and of Pillow at the reduced scale that suffices for 224 pixels. Writes the speeds and their
ratios into benchmarks/RESULTS.md: medians of three alternating passes.
"""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import tensorflow as tf
from PIL import Image
from results import record
from trunk import measure_medians

from tfx_finetune.core import hardware
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import MODALITIES, PretrainedCfg

SIZES = {(500, 375): 2_000, (1600, 1200): 300, (4000, 3000): 64}


def main() -> None:
    """Run the benchmark."""
    rows = [
        "| JPEG | this package | decompression only | at reduced scale | this package / decompression |",
        "|---|---|---|---|---|",
    ]
    modality = MODALITIES.build(Spec("image"), PretrainedCfg(size=224))
    pool = ThreadPoolExecutor(hardware.detect().threads)
    for (width, height), count in SIZES.items():
        contents = [make_jpeg(width, height, seed) for seed in range(min(count, 16))] * -(-count // 16)
        dataset = tf.data.Dataset.from_tensor_slices(contents).map(
            lambda content: modality.prepare(modality.decode(content)), tf.data.AUTOTUNE
        )
        seconds = measure_medians(
            {
                "ours": partial(iterate_batches, dataset.batch(32)),
                "bare": partial(decode_all, pool, decode_jpeg, contents),
                "reduced": partial(decode_all, pool, decode_at_reduced_scale, contents),
            }
        )
        speeds = {name: len(contents) / median for name, median in seconds.items()}
        rows.append(
            f"| {width} x {height} | {speeds['ours']:.0f} | {speeds['bare']:.0f} | {speeds['reduced']:.0f} "
            f"| {speeds['ours'] / speeds['bare']:.2f} |"
        )
    rows.append("\nImages per second, prepared to 224 x 224.")
    record("pipeline", "Decoding and preparing", "\n".join(rows))


def make_jpeg(width: int, height: int, seed: int) -> bytes:
    """Return an image with detail down to about eight pixels, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8))
    stream = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def iterate_batches(dataset: tf.data.Dataset) -> None:
    """Iterate over all batches."""
    for _ in dataset:
        pass


def decode_all(pool: ThreadPoolExecutor, decode: Callable[[bytes], np.ndarray], contents: Sequence[bytes]) -> None:
    """Decode all images with all threads."""
    for _ in pool.map(decode, contents):
        pass


def decode_jpeg(content: bytes) -> np.ndarray:
    """Decompress an image."""
    return np.asarray(Image.open(io.BytesIO(content)))


def decode_at_reduced_scale(content: bytes) -> np.ndarray:
    """Decompress an image at the smallest scale with at least twice 224 pixels."""
    image = Image.open(io.BytesIO(content))
    image.draft("RGB", (448, 448))
    return np.asarray(image)


if __name__ == "__main__":
    main()
