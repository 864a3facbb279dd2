"""tf.data as everything here uses it: on all cores, in order, and without its autotuner."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core import hardware
from tfx_finetune.types.components import Modality, Source

without_autograph = tf.autograph.experimental.do_not_convert
"""Nothing in a pipeline here needs autograph, which doubles the time of tracing."""

_BATCH_SIZE = 64


def make_noinline_function(function: Callable[..., Any], **options: Any) -> Any:
    """A function that graphs call, where TensorFlow would put all that it does in the place of each call.

    A pipeline that calls such ones several times is made in half the time. As a branch of `tf.cond`, it costs a sample
    nothing where another one is taken; TensorFlow looks at every node of a branch that stands in the graph itself.

    Args:
        function: From tensors to tensors.
        options: Those of `tf.function`.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True}, **options)


def get_schema(source: Source) -> dict[str, Any]:
    """The columns that a source's samples have, with their types."""
    return source.read(next(iter(source.sizes))).element_spec


def make_zeros(element_spec: Any) -> Any:
    """A structure of zeros as batches have them; of one sample where their number is not known.

    Args:
        like: A structure of specs, or of a model's symbolic tensors.
    """

    def one(spec: Any) -> tf.Tensor:
        return tf.zeros([1 if size is None else size for size in spec.shape], spec.dtype)

    return tf.nest.map_structure(one, element_spec)


def select_samples(source: Source, mask: np.ndarray) -> tf.data.Dataset:
    """The marked samples of a source, each behind its position among all, before any file of another one is read.

    Args:
        source: The data.
        member: Which samples, (n,), in the order of its parts.
    """
    parts = [source.read(part) for part in source.sizes]
    samples = parts[0]
    for part in parts[1:]:
        samples = samples.concatenate(part)
    wanted = tf.constant(mask)
    return samples.enumerate().filter(without_autograph(lambda index, _: wanted[index]))


def parallel_map(samples: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Applies a function to every element on all cores; the order stays."""
    return samples.map(without_autograph(function), num_parallel_calls=hardware.detect().threads, deterministic=True)


def with_prefetch(samples: tf.data.Dataset, buffer_size: int = 2) -> tf.data.Dataset:
    """The whole pipeline, some elements prepared ahead.

    Without autotuning: its thread, when an iterator ends, is now and then not woken, and keeps the end waiting for
    seconds (3 of 10 iterators over 500 pictures waited 3.5 s).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return samples.prefetch(buffer_size).with_options(options)


def as_numpy(samples: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    """Yields every sample as NumPy has it."""
    if not all(column.shape.is_fully_defined() for column in samples.element_spec.values()):
        yield from with_prefetch(samples).as_numpy_iterator()
        return
    # To hand over samples one by one takes 0.1 ms each.
    for batch in with_prefetch(samples.batch(_BATCH_SIZE)).as_numpy_iterator():
        yield from (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))


def decode_or_empty(modality: Modality, content: tf.Tensor, is_present: tf.Tensor | bool) -> tf.Tensor:
    """Raw content, decoded; the modality's blank where it is not there."""
    if is_present is True or content.dtype != tf.string:
        return modality.decode(content)
    return tf.cond(is_present, lambda: modality.decode(content), modality.empty_value)
