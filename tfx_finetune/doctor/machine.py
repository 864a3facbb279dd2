"""Checks of the machine without TensorFlow: memory, disk space, GPU driver and cache."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx_finetune.core import assets, files
from tfx_finetune.core.errors import UserError
from tfx_finetune.doctor.diagnosis import Diagnosis

_MIN_MEMORY = 2e9  # A run on 16,000 images took 1.1 GB.
# A work folder with exports and checkpoints takes about 100 MB; downloaded packages take more while they are unpacked.
_MIN_FREE_BYTES = 1e9
_CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_processors() -> Diagnosis:
    """Check processors and memory within the limits of a container."""
    memory = min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_read_memory_limits()])
    message = f"{os.cpu_count()} processors, {memory / 1e9:.1f} GB of memory"
    if memory >= _MIN_MEMORY:
        return Diagnosis("machine", "ok", message)
    hint = "close other programs, or use a smaller --batch_size and a smaller size= of the backbone"
    return Diagnosis("machine", "warning", message, hint)


def check_disk_space() -> Diagnosis:
    """Check the free space for work folders on the disk of the current folder."""
    free = shutil.disk_usage(".").free
    message = f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    if free >= _MIN_FREE_BYTES:
        return Diagnosis("disk", "ok", message)
    return Diagnosis("disk", "warning", message, "free some space, or set --workdir to another disk")


def check_cache(max_bytes: int) -> Diagnosis:
    """Check that the cache can be written, and that the disk has room for its largest size.

    Args:
        max_bytes: Largest size of the feature cache in bytes; 0 for no limit.
    """
    folder = assets.get_cache_dir()
    try:
        files.make_writable_folder(folder, "cache")
    except UserError as error:
        return Diagnosis("cache", "broken", str(error), "set --cache.dir or TFX_FINETUNE_CACHE")
    features, packages = (
        files.compute_size(part) if part.is_dir() else 0 for part in (folder / "features", folder / "packages")
    )
    limit, free = (
        f"at most {max_bytes / 1e9:.1f} GB" if max_bytes else "without a limit",
        shutil.disk_usage(folder).free,
    )
    message = (
        f"{folder}: {features / 1e9:.1f} GB of features, {limit}; {packages / 1e9:.1f} GB of packages; "
        f"{free / 1e9:.1f} GB free"
    )
    if free + features >= max(max_bytes, _MIN_FREE_BYTES):
        return Diagnosis("cache", "ok", message)
    hint = "free some space, or lower --cache.max_bytes: the cache may fill the disk"
    return Diagnosis("cache", "warning", message, hint)


def list_nvidia_gpus() -> tuple[str, str]:
    """Return the GPUs of the NVIDIA driver, or the reason why there are none: one of both is empty."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return "", "no nvidia-smi, so no NVIDIA driver"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"nvidia-smi does not run: {error}"
    lines = (output.stdout.strip() or output.stderr.strip() or "no output").splitlines()
    return ("", f"nvidia-smi: {lines[0]}") if output.returncode else ("; ".join(lines), "")


def check_gpu(tensorflow_info: Mapping[str, Any] | None) -> Diagnosis:
    """Check that TensorFlow sees a GPU, and find the reason if it does not.

    Args:
        tensorflow_info: `device`, `precision`, `version` and `cuda` of the self-test; `cuda` is the version of CUDA
            that TensorFlow is built with, empty for none. None if TensorFlow does not run.
    """
    if tensorflow_info and tensorflow_info["device"] != "cpu":
        return Diagnosis("GPU", "ok", f"{tensorflow_info['device']}, trains in {tensorflow_info['precision']}")
    gpus, reason = list_nvidia_gpus()
    if not gpus:
        return Diagnosis("GPU", "optional", f"none ({reason}); training runs on the CPU")
    if tensorflow_info is None:
        return Diagnosis("GPU", "warning", f"{gpus}; TensorFlow does not run", "correct TensorFlow first")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Diagnosis(
            "GPU", "warning", f"{gpus}; hidden by CUDA_VISIBLE_DEVICES={hidden}", "unset it to use the GPU"
        )
    if not tensorflow_info["cuda"]:
        hint = "use Linux or WSL2, and run pip install 'tensorflow[and-cuda]' instead of tensorflow-cpu"
        return Diagnosis("GPU", "warning", f"{gpus}; this TensorFlow is built without CUDA", hint)
    message = f"{gpus}; CUDA {tensorflow_info['cuda']} is not installed, or the driver is too old for it"
    return Diagnosis("GPU", "warning", message, f"run pip install 'tensorflow[and-cuda]=={tensorflow_info['version']}'")


def _read_memory_limits() -> list[int]:
    """Return the memory limits of the control group in bytes; empty if there is none."""
    texts = [Path(path).read_text().strip() for path in _CGROUP_FILES if Path(path).is_file()]
    return [int(text) for text in texts if text.isdigit()]
