"""STATION: every exported file against the trained model: the same answers, and a score within the gate."""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core import files, hardware, progress
from tfx_finetune.core.config import VerifyOptions
from tfx_finetune.core.errors import first_line
from tfx_finetune.core.probe import measure_latencies, probe
from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.deploy.gate import compute_allowed_drop, compute_score_drops
from tfx_finetune.deploy.golden import GoldenSamples
from tfx_finetune.evaluation.intervals import paired_interval
from tfx_finetune.evaluation.scores import evaluate, predict_batches
from tfx_finetune.ops import litert
from tfx_finetune.tasks.outputs import replace_outputs
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.types.aliases import Batch, HeadFn
from tfx_finetune.types.deployment import Compression, LoadedModel
from tfx_finetune.types.task import Task

_REPEATS = 50


def verify(
    bundle: Bundle,
    golden: GoldenSamples,
    test: FeatureStore,
    reference: tuple[Batch, Batch],
    gate: VerifyOptions,
    compressions: Sequence[Compression] = (),
    kernel_sizes: Counter[int] | None = None,
) -> list[VerificationResult]:
    """Checks every file of a bundle.

    Args:
        bundle: The files.
        golden: Samples on which a file must agree with the trained model within its tolerance.
        test: Prepared test samples.
        reference: The trained model's (targets, decoded outputs) on `test`.
        gate: What a file may lose.
        compressions: What the kernels of every file have to show.
        sizes: How many kernels of each size have to; None for all.
    """
    best = evaluate(bundle.tasks, *reference, full_report=False)
    with progress.bar("verify", len(bundle.formats)) as advance:
        checks = []
        for format in bundle.formats:
            check = _verify_file(bundle, format, golden, test, reference, best, gate)
            checks.append(_check_compressions(bundle, check, compressions, kernel_sizes) if compressions else check)
            advance(1, f"{format} {checks[-1].failure_reason or 'agrees'}")
    return _measure_files(bundle, checks)


def compute_mean_score(tasks: Mapping[str, Task], scores: Mapping[str, Any]) -> float:
    """The one number that a model is judged by: the mean over heads of each task's own score."""
    named = [f"{head}/{task.monitor}" for head, task in tasks.items()]
    return float(np.mean([scores[name] for name in named if name in scores]))


def max_abs_difference(reference: Batch, candidate: Batch) -> float:
    """Largest absolute difference of two outputs; infinite where names, shapes or finiteness differ.

    Of whole numbers, such as the classes of a mask, there is none: they follow from scores, and tell nothing of how far
    these are apart.
    """
    found = 0.0
    for name, values in reference.items():
        other = candidate.get(name)
        if other is None or other.shape != values.shape or not np.isfinite(other).all():
            return float("inf")
        if values.dtype.kind == "f":
            found = max(found, float(np.abs(values - other).max()))
    return found


def _verify_file(
    bundle: Bundle,
    format: str,
    golden: GoldenSamples,
    test: FeatureStore,
    reference: tuple[Batch, Batch],
    best: Mapping[str, Any],
    gate: VerifyOptions,
) -> VerificationResult:
    tasks, (targets, ours) = bundle.tasks, reference
    apart, theirs = float("inf"), Batch()
    why = "its outputs are not those of the model (not finite, or of another shape): the file is empty or broken"
    try:
        reader = bundle.load_model(format)
        apart = _compare_golden(reader, golden, tasks)
        if np.isfinite(apart):
            _, theirs = predict_batches(reader.predict, test.batches(64), tasks)
    except Exception as error:  # A file may be broken in any way; each is a reason to refuse it, none to stop.
        why = first_line(error, max_chars=None)
    if not np.isfinite(max_abs_difference(ours, theirs)):
        return VerificationResult(format, {}, 0.0, 1.0, 1.0, 1.0, float("inf"), 0.0, why)
    scores = evaluate(tasks, targets, theirs)
    losses = compute_score_drops(tasks, best, scores)
    most = gate.max_drop if bundle.get_export(format).quantized else gate.max_drop_float
    why = _find_failure_reason(apart, bundle.get_tolerance(format), losses, compute_allowed_drop(most, len(test)))
    found, drop = compute_mean_score(tasks, scores), float(np.mean(list(losses.values())))
    low, high = paired_interval(tasks, targets, ours, theirs, drop)
    one = {name: values[:1] for name, values in golden.inputs.items()}
    # A TFLite file is timed in a process of its own, with the others.
    timed = bundle.get_path(format).suffix != ".tflite"
    latency = statistics.median(measure_latencies(lambda: reader.predict(one), _REPEATS)) if timed else 0.0
    same = [_predict_labels(task, ours, head) == _predict_labels(task, theirs, head) for head, task in tasks.items()]
    return VerificationResult(format, scores, found, drop, low, high, apart, latency, why, float(np.mean(same)))


def _find_failure_reason(apart: float, tolerance: float, losses: Mapping[str, float], allowed: float) -> str:
    """Why a file that gives answers is refused; empty where it is not."""
    if apart > tolerance:
        return f"differs from the model by {apart:.2g} on a golden sample, allowed {tolerance:.2g}"
    # Every head is held to the gate by itself: the mean would let one of several be ruined.
    worst = max(losses, key=lambda name: losses[name])
    return f"loses {losses[worst]:.4f} of {worst}, allowed {allowed:.4f}" if losses[worst] > allowed else ""


def _predict_labels(task: Task, outputs: Batch, head: str) -> np.ndarray:
    """What is said of each sample, as texts."""
    return np.array([str(task.format_prediction(scores)["label"]) for scores in outputs[f"{head}/scores"]])


def _check_compressions(
    bundle: Bundle, result: VerificationResult, compressions: Sequence[Compression], kernel_sizes: Counter[int] | None
) -> VerificationResult:
    """The check with what the file's kernels keep of the compressions, where they can be read."""
    export, path = bundle.get_export(result.format), bundle.get_path(result.format)
    if result.failure_reason or not export.read_kernels:
        return result
    kernels = export.read_kernels(path)
    if kernel_sizes is not None:
        kernels = select_compressed_kernels(kernels, kernel_sizes)
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels) / max(sum(kernel.size for kernel in kernels), 1)
    return dataclasses.replace(
        result, sparsity=zeros, failure_reason=find_compression_violation(kernels, zeros, compressions)
    )


def select_compressed_kernels(kernels: Sequence[np.ndarray], kernel_sizes: Mapping[int, int]) -> list[np.ndarray]:
    """Of each size so many kernels, those of the most zeros and then of the fewest values: where a part of a network
    was compressed, a file does not say which of its kernels are of that part.
    """
    order = sorted(kernels, key=lambda kernel: (np.count_nonzero(kernel), len(np.unique(kernel.astype(np.float32)))))
    left = Counter(kernel_sizes)
    found = []
    for kernel in order:
        if left[kernel.size] > 0:
            left[kernel.size] -= 1
            found.append(kernel)
    return found


def _measure_files(bundle: Bundle, results: Sequence[VerificationResult]) -> list[VerificationResult]:
    """The checks with the files' sizes and, for TFLite files that run, speed, memory and operators."""
    paths = {check.format: bundle.get_path(check.format) for check in results}
    lite = [paths[check.format] for check in results if check.scores and paths[check.format].suffix == ".tflite"]
    threads = hardware.detect().threads
    found = {(row["path"], row["threads"]): row for row in probe(lite, sorted({1, threads}), _REPEATS)} if lite else {}
    done = []
    for check in results:
        path = paths[check.format]
        if not path.exists():
            done.append(check)
            continue
        sizes: dict[str, Any] = {"bytes": files.compute_size(path), "compressed_bytes": files.compute_compressed_size(path)}
        if (str(path), threads) in found:
            alone, whole = found[str(path), 1], found[str(path), threads]
            operators, floats = litert.summarize_operators(path.read_bytes())
            # A float file has operators that compute in integers where it looks up tokens.
            mixed = len(floats) < operators and bundle.get_export(check.format).quantized
            named = tuple(dict.fromkeys(map(litert.parse_layer_name, floats))) if mixed else ()
            counts = {"total_ops": operators, "float_ops": len(floats), "float_layers": named}
            speed = {"latency": whole["latency"], "single_thread_latency": alone["latency"], "memory": whole["memory"]}
            sizes |= counts | speed
        done.append(dataclasses.replace(check, **sizes))
    return done


def find_compression_violation(
    kernels: Sequence[np.ndarray], sparsity: float, compressions: Sequence[Compression]
) -> str:
    """In which way a file's kernels are not what the compressions promised; empty where they are.

    Args:
        kernels: Output channels first, as they are stored.
        zeros: Share of zeros in all of them.
        compressions: What was done to them.
    """
    for compression in compressions:
        # A kernel of few weights may stay whole, such as the first one's under 2:4.
        if sparsity < compression.sparsity - 0.02:
            return f"has {sparsity:.3f} zeros in its kernels, {compression.name}() promised {compression.sparsity}"
        most = compression.num_clusters
        for kernel in kernels:
            # Rounded with a scale a channel, a kernel has so many values in each channel. NumPy 2.4 sorts float16, and
            # with that counts its values, wrongly on processors with AVX-512.
            parts = kernel if kernel.dtype == np.int8 else [kernel.astype(np.float32)]
            if most and kernel.size > most and (values := max(len(np.unique(part)) for part in parts)) > most:
                return f"has a kernel of {values} values, {compression.name}() promised {most}"
    return ""


def _compare_golden(reader: LoadedModel, golden: GoldenSamples, tasks: Mapping[str, Task]) -> float:
    """Largest difference on the golden samples, prepared and, where the file decodes by itself, raw."""
    apart = max_abs_difference(golden.outputs, reader.predict(golden.inputs))
    if reader.predict_raw:
        raw = {tower: [sample[tower] for sample in golden.raw] for tower in golden.raw[0]}
        apart = max(
            apart, max_abs_difference(_postprocess_for_comparison(golden.outputs, tasks), reader.predict_raw(raw))
        )
    return apart


def _postprocess_for_comparison(outputs: Batch, tasks: Mapping[str, Task]) -> Batch:
    """Decoded outputs as a file gives them that decodes by itself.

    Boxes are left out: two of nearly the same score may stand in either order, their scores do not.
    """

    def compared(find: HeadFn) -> HeadFn:
        return lambda own: {name: np.asarray(x) for name, x in find(own).items() if name in ("scores", "mask")}

    return replace_outputs(
        outputs, {head: compared(task.localization.postprocess_fn) for head, task in tasks.items() if task.localization}
    )
