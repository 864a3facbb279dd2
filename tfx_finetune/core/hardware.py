"""The one place that decides precision, XLA, threads and engine from what the machine has."""

import functools
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """What the machine has, and what follows from it.

    Attributes:
        device: `cpu`, or the GPU's name.
        threads: Threads for the work on the CPU.
        precision: Keras dtype policy in which training runs.
        jit_compile: Whether XLA compiles training steps. On a CPU XLA ran MobileNetV2 12 times slower.
        engine: What runs frozen trunks: `litert` on a CPU (4 times faster than Keras there), else `keras`.
    """

    device: str
    threads: int
    precision: str
    jit_compile: bool
    engine: str


@functools.cache
def detect() -> Hardware:
    """Looks at the machine, once."""
    import tensorflow as tf

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # TensorFlow's own variable; all else keeps to it too.
    threads = int(os.environ.get("TF_NUM_INTRAOP_THREADS") or cores)
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Hardware("cpu", threads, "float32", False, "litert")
    details = tf.config.experimental.get_device_details(gpus[0])
    # bfloat16 is native from compute capability 8.0 (Ampere) on.
    precision = "mixed_bfloat16" if details.get("compute_capability", (0, 0)) >= (8, 0) else "float32"
    return Hardware(details.get("device_name", "gpu"), threads, precision, True, "keras")
