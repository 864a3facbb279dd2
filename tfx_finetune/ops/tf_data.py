"""Helpers for tf.data pipelines: parallel, deterministic, without autograph and autotuning."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core import hardware
from tfx_finetune.types.components import Modality, Source

without_autograph = tf.autograph.experimental.do_not_convert
"""Decorator that excludes a function from autograph, which doubles the tracing time and is never needed here."""

_BATCH_SIZE = 64


def make_noinline_function(function: Callable[..., Any], **options: Any) -> Any:
    """Make a `tf.function` whose body TensorFlow does not inline at every call.

    A pipeline with several calls is built in half the time. As a branch of `tf.cond` the function costs nothing for
    samples that take the other branch, while TensorFlow visits every node of an inlined branch.

    Args:
        function: Function of tensors.
        **options: Options of `tf.function`.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True}, **options)


def get_schema(source: Source) -> dict[str, Any]:
    """Return the specs of a source's columns by name."""
    return source.read(next(iter(source.sizes))).element_spec


def make_zeros(element_spec: Any) -> Any:
    """Make a structure of zero tensors.

    Args:
        element_spec: Structure of specs or of symbolic tensors. Unknown sizes become 1.

    Examples:
        >>> make_zeros({"x": tf.TensorSpec((None, 2))})["x"].numpy().tolist()
        [[0.0, 0.0]]
    """

    def zeros(spec: Any) -> tf.Tensor:
        return tf.zeros([1 if size is None else size for size in spec.shape], spec.dtype)

    return tf.nest.map_structure(zeros, element_spec)


def select_samples(source: Source, mask: np.ndarray) -> tf.data.Dataset:
    """Select samples of a source before the files of the other samples are read.

    Args:
        source: Data source.
        mask: bool (n,). True for the samples to select, in the order of the source's parts.

    Returns:
        Pairs of the sample's index among all samples and the raw sample.
    """
    parts = [source.read(part) for part in source.sizes]
    samples = parts[0]
    for part in parts[1:]:
        samples = samples.concatenate(part)
    mask_tensor = tf.constant(mask)
    return samples.enumerate().filter(without_autograph(lambda index, _: mask_tensor[index]))


def parallel_map(samples: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Map a function over a dataset on all CPU cores and keep the order.

    Examples:
        >>> [int(x) for x in parallel_map(tf.data.Dataset.range(3), lambda x: 2 * x)]
        [0, 2, 4]
    """
    return samples.map(without_autograph(function), num_parallel_calls=hardware.detect().threads, deterministic=True)


def with_prefetch(samples: tf.data.Dataset, buffer_size: int = 2) -> tf.data.Dataset:
    """Add prefetching to the end of a pipeline and turn off autotuning.

    The thread of the autotuner is sometimes not woken when an iterator ends, which delays the end by seconds (3 of 10
    iterators over 500 images waited 3.5 s).

    Args:
        samples: Complete pipeline.
        buffer_size: int >= 1. Number of elements to prepare ahead. Default 2.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return samples.prefetch(buffer_size).with_options(options)


def as_numpy(samples: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    """Yield every sample as a dict of NumPy values.

    Args:
        samples: Unbatched dataset of dicts.

    Examples:
        >>> [int(sample["x"]) for sample in as_numpy(tf.data.Dataset.from_tensor_slices({"x": [1, 2]}))]
        [1, 2]
    """
    if not all(column.shape.is_fully_defined() for column in samples.element_spec.values()):
        yield from with_prefetch(samples).as_numpy_iterator()
        return
    # A single sample takes 0.1 ms to pass from tf.data to NumPy, so samples pass in batches.
    for batch in with_prefetch(samples.batch(_BATCH_SIZE)).as_numpy_iterator():
        yield from (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))


def decode_or_empty(modality: Modality, content: tf.Tensor, is_present: tf.Tensor | bool) -> tf.Tensor:
    """Decode raw content, or return the modality's empty value if the content is missing.

    Args:
        modality: Modality of the content.
        content: Raw content: encoded bytes, or values that are already decoded.
        is_present: bool scalar. False if the sample lacks this modality.
    """
    if is_present is True or content.dtype != tf.string:
        return modality.decode(content)
    return tf.cond(is_present, lambda: modality.decode(content), modality.empty_value)
