"""What a machine has, seen without TensorFlow: memory, room on its disks, its GPU's driver, and the cache."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx_finetune.core import assets, files
from tfx_finetune.core.errors import UserError
from tfx_finetune.doctor.diagnosis import Diagnosis

_MIN_MEMORY = 2e9  # a whole run over 16,000 pictures took 1.1 GB
# A work folder with its exports and checkpoints has some 100 MB, and packages are unpacked beside their files.
_MIN_FREE_BYTES = 1e9
_CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_processors() -> Diagnosis:
    """Processors and memory, as a container limits them."""
    memory = min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_read_memory_limits()])
    found = f"{os.cpu_count()} processors, {memory / 1e9:.1f} GB of memory"
    if memory >= _MIN_MEMORY:
        return Diagnosis("machine", "ok", found)
    return Diagnosis(
        "machine", "warning", found, "close other programs; smaller --batch_size and --image.size take less"
    )


def check_disk_space() -> Diagnosis:
    """Room for work folders on the disk of the current folder."""
    free = shutil.disk_usage(".").free
    found = f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    if free >= _MIN_FREE_BYTES:
        return Diagnosis("disk", "ok", found)
    return Diagnosis("disk", "warning", found, "make room, or write elsewhere with --workdir")


def check_cache(max_bytes: int) -> Diagnosis:
    """Whether the cache can be written, how large it is, and whether what it may grow to has room.

    Args:
        most: Bytes of frozen features that it may keep; 0 for no limit.
    """
    folder = assets.get_cache_dir()
    try:
        files.make_writable_folder(folder, "cache")
    except UserError as error:
        return Diagnosis("cache", "broken", str(error), "say --cache.dir, or set TFX_FINETUNE_CACHE")
    kept, fetched = (
        files.compute_size(part) if part.is_dir() else 0 for part in (folder / "features", folder / "packages")
    )
    limit, free = f"at most {max_bytes / 1e9:.1f}" if max_bytes else "without a limit", shutil.disk_usage(folder).free
    found = (
        f"{folder}: GB of features {kept / 1e9:.1f}, {limit}; of packages {fetched / 1e9:.1f}; free {free / 1e9:.1f}"
    )
    if free + kept >= max(max_bytes, _MIN_FREE_BYTES):
        return Diagnosis("cache", "ok", found)
    return Diagnosis("cache", "warning", found, "it may fill the disk: make room, or lower --cache.max_bytes")


def list_nvidia_gpus() -> tuple[str, str]:
    """The GPUs that NVIDIA's driver knows, and otherwise why there are none: one of the two is empty."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return "", "no nvidia-smi, hence no driver of NVIDIA"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"nvidia-smi does not run: {error}"
    lines = (said.stdout.strip() or said.stderr.strip() or "it says nothing").splitlines()
    return ("", f"nvidia-smi: {lines[0]}") if said.returncode else ("; ".join(lines), "")


def check_gpu(tensorflow_info: Mapping[str, Any] | None) -> Diagnosis:
    """Whether TensorFlow sees a GPU, and otherwise why not.

    Args:
        tensorflow: What the self-test has of it: its `device`, `precision`, and the version of `cuda` that it is built
            with, empty for none; None where TensorFlow does not run.
    """
    if tensorflow_info and tensorflow_info["device"] != "cpu":
        return Diagnosis("GPU", "ok", f"{tensorflow_info['device']}, trains in {tensorflow_info['precision']}")
    cards, reason = list_nvidia_gpus()
    if not cards:
        return Diagnosis("GPU", "optional", f"none ({reason}); training runs on the CPU")
    if tensorflow_info is None:
        return Diagnosis("GPU", "warning", f"{cards}; TensorFlow does not run", "mend TensorFlow first")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Diagnosis(
            "GPU", "warning", f"{cards}; hidden by CUDA_VISIBLE_DEVICES={hidden}", "unset it to use the GPU"
        )
    if not tensorflow_info["cuda"]:
        todo = "use Linux or WSL2, and pip install 'tensorflow[and-cuda]' in place of tensorflow-cpu"
        return Diagnosis("GPU", "warning", f"{cards}; this TensorFlow is built without CUDA", todo)
    found = f"{cards}; TensorFlow finds no libraries of CUDA {tensorflow_info['cuda']}, or the driver is too old for it"
    return Diagnosis("GPU", "warning", found, f"pip install 'tensorflow[and-cuda]=={tensorflow_info['version']}'")


def _read_memory_limits() -> list[int]:
    """Bytes of memory that the process's control group may take; nothing where it has no limit."""
    texts = [Path(path).read_text().strip() for path in _CGROUP_FILES if Path(path).is_file()]
    return [int(text) for text in texts if text.isdigit()]
