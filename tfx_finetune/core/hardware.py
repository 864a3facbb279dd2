"""Decides precision, XLA, threads and inference engine from the hardware of the machine."""

import functools
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Hardware of the machine and the settings that follow from it.

    Attributes:
        device: `cpu`, or the name of the GPU.
        threads: Number of CPU threads.
        precision: Keras dtype policy of training.
        jit_compile: True if XLA compiles training steps. On a CPU, XLA ran MobileNetV2 12 times slower.
        engine: Engine that runs frozen trunks: `litert` on a CPU, where it is 4 times faster than Keras, else `keras`.
    """

    device: str
    threads: int
    precision: str
    jit_compile: bool
    engine: str


@functools.cache
def detect() -> Hardware:
    """Detect the hardware; the result is cached for the process."""
    import tensorflow as tf

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # The environment variable of TensorFlow limits the threads of all other work as well.
    threads = int(os.environ.get("TF_NUM_INTRAOP_THREADS") or cores)
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Hardware("cpu", threads, "float32", False, "litert")
    details = tf.config.experimental.get_device_details(gpus[0])
    # bfloat16 is native from compute capability 8.0 (Ampere) on.
    precision = "mixed_bfloat16" if details.get("compute_capability", (0, 0)) >= (8, 0) else "float32"
    return Hardware(details.get("device_name", "gpu"), threads, precision, True, "keras")
