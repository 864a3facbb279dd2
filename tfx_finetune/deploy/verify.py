"""Verification of exported files: agreement with the trained model on golden samples, and score on the test split."""

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
from tfx_finetune.deploy.checks import CompressedKernels, VerificationResult
from tfx_finetune.deploy.gate import compute_allowed_drop, compute_score_drops
from tfx_finetune.deploy.golden import GoldenSamples
from tfx_finetune.evaluation.intervals import paired_interval
from tfx_finetune.evaluation.scores import evaluate, predict_batches, select_monitored_scores
from tfx_finetune.ops import litert
from tfx_finetune.ops.arrays import take
from tfx_finetune.tasks.outputs import replace_outputs
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.types.aliases import Batch, HeadFn
from tfx_finetune.types.deployment import Compression, LoadedModel
from tfx_finetune.types.task import Task

_REPEATS = 50


@dataclasses.dataclass(frozen=True)
class _Reference:
    """Targets, decoded outputs, scores and predicted labels of the trained model on the test split."""

    targets: Batch
    outputs: Batch
    scores: Mapping[str, Any]
    labels: Mapping[str, np.ndarray]


def verify(
    bundle: Bundle,
    golden: GoldenSamples,
    test: FeatureStore,
    reference: tuple[Batch, Batch],
    gate: VerifyOptions,
    kernels: CompressedKernels | None = None,
) -> list[VerificationResult]:
    """Verify every file of a bundle.

    Args:
        bundle: Exported files.
        golden: Samples on which a file must agree with the trained model within its tolerance.
        test: Prepared test samples.
        reference: Targets and decoded outputs of the trained model on `test`.
        gate: Maximum score drops.
        kernels: Compressed kernels that each file must have; None if the model is not compressed.
    """
    labels = {head: _predict_labels(task, reference[1], head) for head, task in bundle.tasks.items()}
    trained = _Reference(*reference, evaluate(bundle.tasks, *reference, full_report=False), labels)
    with progress.bar("verify", len(bundle.formats)) as advance:
        results = []
        for format in bundle.formats:
            result = _verify_file(bundle, format, golden, test, trained, gate)
            results.append(_check_compressions(bundle, result, kernels) if kernels else result)
            advance(1, f"{format} {results[-1].failure_reason or 'agrees'}")
    return _measure_files(bundle, results)


def compute_mean_score(tasks: Mapping[str, Task], scores: Mapping[str, Any]) -> float:
    """Compute the mean over the heads of the scores that they monitor.

    Args:
        tasks: Tasks by head.
        scores: Scores by `<head>/<score>`.
    """
    return float(np.mean(list(select_monitored_scores(tasks, scores).values())))


def max_abs_difference(reference: Batch, candidate: Batch) -> float:
    """Compute the maximum absolute difference of float outputs; infinite if names, shapes or finiteness differ.

    Integer outputs, such as the classes of a mask, are not compared: they follow from the scores, and their difference
    has no scale.

    Examples:
        >>> max_abs_difference({"scores": np.array([0.5, 0.5])}, {"scores": np.array([0.75, 0.25])})
        0.25
        >>> max_abs_difference({"scores": np.array([0.5])}, {"scores": np.array([np.nan])})
        inf
    """
    difference = 0.0
    for name, values in reference.items():
        other = candidate.get(name)
        if other is None or other.shape != values.shape or not np.isfinite(other).all():
            return float("inf")
        if values.dtype.kind == "f":
            difference = max(difference, float(np.abs(values - other).max()))
    return difference


def _verify_file(
    bundle: Bundle,
    format: str,
    golden: GoldenSamples,
    test: FeatureStore,
    reference: _Reference,
    gate: VerifyOptions,
) -> VerificationResult:
    tasks = bundle.tasks
    difference, outputs = float("inf"), Batch()
    failure_reason = "its outputs are not finite or have another shape: the file is empty or broken"
    try:
        model = bundle.load_model(format)
        difference = _compare_golden(model, golden, tasks)
        if np.isfinite(difference):
            _, outputs = predict_batches(model.predict, test.batches(64), tasks)
    except Exception as error:  # A broken file can raise any exception; it fails, and verification continues.
        failure_reason = first_line(error, max_chars=None)
    if not np.isfinite(max_abs_difference(reference.outputs, outputs)):
        return VerificationResult(format, {}, 0.0, 1.0, 1.0, 1.0, float("inf"), 0.0, failure_reason)
    scores = evaluate(tasks, reference.targets, outputs)
    score_drops = compute_score_drops(tasks, reference.scores, scores)
    max_drop = gate.max_drop if bundle.get_export(format).quantized else gate.max_drop_float
    failure_reason = _find_failure_reason(
        difference, bundle.get_tolerance(format), score_drops, compute_allowed_drop(max_drop, len(test))
    )
    score_drop = float(np.mean(list(score_drops.values())))
    ci_low, ci_high = paired_interval(tasks, reference.targets, reference.outputs, outputs, score_drop)
    one_sample = take(golden.inputs, slice(1))
    # TFLite files are timed later, each in a process of its own.
    is_timed_here = bundle.get_path(format).suffix != ".tflite"
    latency = (
        statistics.median(measure_latencies(lambda: model.predict(one_sample), _REPEATS)) if is_timed_here else 0.0
    )
    agreement = [reference.labels[head] == _predict_labels(task, outputs, head) for head, task in tasks.items()]
    return VerificationResult(
        format=format,
        scores=scores,
        score=compute_mean_score(tasks, scores),
        score_drop=score_drop,
        ci_low=ci_low,
        ci_high=ci_high,
        difference=difference,
        latency=latency,
        failure_reason=failure_reason,
        agreement=float(np.mean(agreement)),
    )


def _find_failure_reason(
    difference: float, tolerance: float, score_drops: Mapping[str, float], allowed_drop: float
) -> str:
    """Return the reason why a file with valid outputs fails; empty if it passes."""
    if difference > tolerance:
        return f"differs from the model by {difference:.2g} on a golden sample, allowed {tolerance:.2g}"
    # Every head must pass the gate, because the mean of several would hide that one is ruined.
    worst = max(score_drops, key=lambda name: score_drops[name])
    if score_drops[worst] <= allowed_drop:
        return ""
    return f"loses {score_drops[worst]:.4f} of {worst}, allowed {allowed_drop:.4f}"


def _predict_labels(task: Task, outputs: Batch, head: str) -> np.ndarray:
    """Return the predicted label of each sample as text, (n,)."""
    return np.array([str(task.format_prediction(scores)["label"]) for scores in outputs[f"{head}/scores"]])


def _check_compressions(bundle: Bundle, result: VerificationResult, expected: CompressedKernels) -> VerificationResult:
    """Add the sparsity of a file, and the reason if its kernels are not compressed, if they can be read."""
    export, path = bundle.get_export(result.format), bundle.get_path(result.format)
    if result.failure_reason or not export.read_kernels:
        return result
    kernels = export.read_kernels(path)
    if expected.kernel_sizes is not None:
        kernels = select_compressed_kernels(kernels, expected.kernel_sizes)
    sparsity = sum(int((kernel == 0).sum()) for kernel in kernels) / max(sum(kernel.size for kernel in kernels), 1)
    return dataclasses.replace(
        result, sparsity=sparsity, failure_reason=find_compression_violation(kernels, sparsity, expected.compressions)
    )


def select_compressed_kernels(kernels: Sequence[np.ndarray], kernel_sizes: Mapping[int, int]) -> list[np.ndarray]:
    """Select the kernels that were compressed: of each size, those with the most zeros, then with the fewest values.

    A file does not say which of its kernels belong to the compressed part of a network.

    Args:
        kernels: Kernels of a file.
        kernel_sizes: Number of compressed kernels by size.
    """
    order = sorted(kernels, key=lambda kernel: (np.count_nonzero(kernel), len(np.unique(kernel.astype(np.float32)))))
    remaining = Counter(kernel_sizes)
    selection = []
    for kernel in order:
        if remaining[kernel.size] > 0:
            remaining[kernel.size] -= 1
            selection.append(kernel)
    return selection


def _measure_files(bundle: Bundle, results: Sequence[VerificationResult]) -> list[VerificationResult]:
    """Add the sizes of the files, and latency, memory and operators of TFLite files that run."""
    paths = {result.format: bundle.get_path(result.format) for result in results}
    tflite_paths = [paths[result.format] for result in results if result.scores]
    tflite_paths = [path for path in tflite_paths if path.suffix == ".tflite"]
    threads = hardware.detect().threads
    rows = probe(tflite_paths, sorted({1, threads}), _REPEATS) if tflite_paths else []
    timings = {(row["path"], row["threads"]): row for row in rows}
    measured = []
    for result in results:
        path = paths[result.format]
        if not path.exists():
            measured.append(result)
            continue
        fields: dict[str, Any] = {
            "bytes": files.compute_size(path),
            "compressed_bytes": files.compute_compressed_size(path),
        }
        if (str(path), threads) in timings:
            single_thread, all_threads = timings[str(path), 1], timings[str(path), threads]
            total_ops, float_ops = litert.summarize_operators(path.read_bytes())
            # A float file can have integer operators too, such as the lookup of tokens.
            is_mixed = len(float_ops) < total_ops and bundle.get_export(result.format).quantized
            fields |= {
                "total_ops": total_ops,
                "float_ops": len(float_ops),
                "float_layers": tuple(dict.fromkeys(map(litert.parse_layer_name, float_ops))) if is_mixed else (),
                "latency": all_threads["latency"],
                "single_thread_latency": single_thread["latency"],
                "memory": all_threads["memory"],
            }
        measured.append(dataclasses.replace(result, **fields))
    return measured


def find_compression_violation(
    kernels: Sequence[np.ndarray], sparsity: float, compressions: Sequence[Compression]
) -> str:
    """Return how the kernels of a file violate the compressions; empty if they do not.

    Args:
        kernels: Stored kernels, output channels first.
        sparsity: float, 0 to 1. Fraction of zeros in all kernels.
        compressions: Compressions of the model.
    """
    for compression in compressions:
        # A kernel with few weights may stay dense, such as the first one with the pattern 2:4.
        if sparsity < compression.sparsity - 0.02:
            return f"has a sparsity of {sparsity:.3f}, {compression.name}() promised {compression.sparsity}"
        max_values = compression.num_clusters
        for kernel in kernels:
            # With a scale per channel, the maximum applies to each channel. NumPy 2.4 sorts float16, and so counts its
            # values, wrongly on processors with AVX-512.
            parts = kernel if kernel.dtype == np.int8 else [kernel.astype(np.float32)]
            if not max_values or kernel.size <= max_values:
                continue
            if (num_values := max(len(np.unique(part)) for part in parts)) > max_values:
                return f"has a kernel with {num_values} values, {compression.name}() promised {max_values}"
    return ""


def _compare_golden(model: LoadedModel, golden: GoldenSamples, tasks: Mapping[str, Task]) -> float:
    """Return the maximum difference on the golden samples: prepared, and raw if the file preprocesses."""
    difference = max_abs_difference(golden.outputs, model.predict(golden.inputs))
    if model.predict_raw:
        raw = {tower: [sample[tower] for sample in golden.raw] for tower in golden.raw[0]}
        reference = _postprocess_for_comparison(golden.outputs, tasks)
        difference = max(difference, max_abs_difference(reference, model.predict_raw(raw)))
    return difference


def _postprocess_for_comparison(outputs: Batch, tasks: Mapping[str, Task]) -> Batch:
    """Convert decoded outputs to those of a file that preprocesses and postprocesses.

    Boxes are left out: two boxes with nearly the same score may come in either order, unlike their scores.
    """

    def keep_scores_and_masks(head_fn: HeadFn) -> HeadFn:
        return lambda head_outputs: {
            name: np.asarray(values) for name, values in head_fn(head_outputs).items() if name in ("scores", "mask")
        }

    return replace_outputs(
        outputs,
        {
            head: keep_scores_and_masks(task.localization.postprocess_fn)
            for head, task in tasks.items()
            if task.localization
        },
    )
