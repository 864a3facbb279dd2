"""Samples as they come: whether each can be read and decoded, else why not, and its hash."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tfx_finetune.ops import exif, masks
from tfx_finetune.types.components import LABEL_SEPARATOR, Source
from tfx_finetune.types.localization import IGNORE_INDEX, LocalizationTarget


@functools.lru_cache(maxsize=4)
def make_decoder(decode: Callable) -> Callable:
    """A function that decodes several samples, bytes each, and raises what the first broken one raises."""

    # Building and optimizing the graph takes seconds, which a model that meets several data sets spends once; a call of
    # it takes longer than decoding a small picture, so there is one for several.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def run(contents: tf.Tensor) -> tf.Tensor:
        one = {"fn_output_signature": tf.int32, "parallel_iterations": 1}
        return tf.map_fn(lambda content: tf.size(decode(content)), contents, **one)

    # Threads that call it for the first time at once would each trace it.
    graph = run.get_concrete_function()
    return lambda contents: graph(tf.constant(contents))


def check_contents(
    contents: Sequence[Any],
    is_path: bool,
    decode: Callable,
    error_message: Callable[[Exception], str],
    warning: Callable[[bytes], str] = lambda raw: "",
    allow_missing: bool = False,
) -> list[tuple[str, str, str]]:
    """Returns for each the hash of its content, or why it cannot be used, and what a person should know of it.

    Args:
        contents: Encoded, or the paths of files, or pixels.
        is_path: Whether they are paths.
        decode: See `decoder`.
        reason: See `Modality.reason`.
        remark: See `Modality.remark`.
        lacking: Whether a content may be empty, which has an empty hash.
    """
    if allow_missing:
        there = [content for content in contents if not isinstance(content, bytes) or content]
        each = iter(check_contents(there, is_path, decode, error_message, warning))
        return [next(each) if not isinstance(content, bytes) or content else ("", "", "") for content in contents]
    read = [_read_file(content) if is_path else (content, "") for content in contents]
    encoded = [content for content, why in read if not why and isinstance(content, bytes)]
    broken = {}
    if encoded and _describe_decoding_error(encoded, decode, error_message):
        broken = {
            content: why for content in encoded if (why := _describe_decoding_error([content], decode, error_message))
        }
    found = []
    for content, why in read:
        why = why or (broken.get(content, "") if isinstance(content, bytes) else "")
        # Pixels, which are no bytes, are decoded already.
        whole = content if isinstance(content, bytes) else content.tobytes()
        said = warning(whole) if not why and isinstance(content, bytes) else ""
        found.append(("" if why else hashlib.sha256(whole).hexdigest(), why, said))
    return found


class AnnotationCheck(NamedTuple):
    """What says where in a picture something is.

    classes: In it, joined by `LABEL_SEPARATOR`.
    why: It cannot be used, or nothing.
    mended: What is mended or left out of it, a finding each.
    digest: Hash of it.
    """

    classes: str
    error: str
    repairs: tuple[str, ...]
    digest: str


def check_annotations(
    source: Source, sample: dict, localization_targets: Mapping[str, LocalizationTarget], image_column: str
) -> dict[str, AnnotationCheck]:
    """What says where in a picture something is, by column.

    Args:
        source: The data.
        sample: One of its samples.
        places: How each column that says it is read.
        seen: The column of the picture.
    """
    return {
        column: _check_annotation(source, column, sample, how, image_column)
        for column, how in localization_targets.items()
    }


def _check_annotation(
    source: Source, column: str, sample: dict, localization: LocalizationTarget, image_column: str
) -> AnnotationCheck:
    value, picture = sample[column], sample[image_column]
    content, why = _read_file(value) if column in source.paths else (value, "")
    whole = content if isinstance(content, bytes) else content.tobytes()
    found, wrong, mended = ("", why, ()) if why else localization.check_annotations(content)
    if not wrong and localization.has_class_indices:
        listed = [int(value) for value in found.split(LABEL_SEPARATOR) if value]
        if unknown := [value for value in listed if value >= len(source.labels) and value != IGNORE_INDEX]:
            wrong = f"{column} has the value {unknown[0]}, which is no class"
        elif isinstance(picture, bytes) and (
            other := _describe_size_mismatch(content, picture, image_column in source.paths)
        ):
            wrong = f"{column} {other}"
        else:
            found = LABEL_SEPARATOR.join(source.labels[value] for value in listed if value != IGNORE_INDEX)
    return AnnotationCheck(found, f"{column}: {why}" if why else wrong, mended, hashlib.sha256(whole).hexdigest())


def _describe_size_mismatch(mask: bytes, image: bytes, is_path: bool) -> str:
    """In words, where a mask is not of its picture's size as a person sees it."""
    width, height = masks.read_mask_size(mask)
    with contextlib.suppress(OSError):  # a picture that cannot be read is told of by itself
        theirs = exif.read_image_size(Path(os.fsdecode(image)) if is_path else image)
        if theirs != (height, width):
            return f"of {width} x {height} pixels beside a picture of {theirs[1]} x {theirs[0]}"
    return ""


def _read_file(path: bytes) -> tuple[bytes, str]:
    try:
        return Path(os.fsdecode(path)).read_bytes(), ""
    except (OSError, ValueError) as error:  # A path may hold what no path can, such as a null byte.
        return b"", getattr(error, "strerror", None) or str(error)


def _describe_decoding_error(contents: list[bytes], decode: Callable, error_message: Callable[[Exception], str]) -> str:
    """Why one of them cannot be decoded; empty if all can."""
    try:
        decode(contents)
    except tf.errors.OpError as error:
        return error_message(error)
    return ""
