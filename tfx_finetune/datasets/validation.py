"""Checks of raw samples: whether content and annotations can be read and decoded, and their hashes."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tfx_finetune.ops import masks
from tfx_finetune.ops.image import read_image_size
from tfx_finetune.types.components import LABEL_SEPARATOR, Source
from tfx_finetune.types.localization import IGNORE_INDEX, LocalizationTarget


class ContentCheck(NamedTuple):
    """Result of checking the content of one tower.

    Attributes:
        digest: Hash of the content; empty if it is missing or unusable.
        error: Reason why the content cannot be used; empty if it can be.
        warning: Issue that the user should know of; mostly empty.
    """

    digest: str = ""
    error: str = ""
    warning: str = ""


class ContentDecoder(NamedTuple):
    """Functions that check content of a modality.

    Attributes:
        decode: Decodes a list of encoded contents; see `make_decoder`.
        error_message: See `Modality.error_message`.
        warning: See `Modality.warning`.
    """

    decode: Callable[[Sequence[bytes]], Any]
    error_message: Callable[[Exception], str]
    warning: Callable[[bytes], str] = lambda raw: ""


@functools.lru_cache(maxsize=4)
def make_decoder(decode: Callable) -> Callable:
    """Return a function that decodes several encoded contents, and raises the error of the first invalid one.

    Args:
        decode: See `Modality.decode`.
    """

    # Building and optimizing the graph takes seconds, which is spent once for several data sets. A call takes longer
    # than decoding a small image, so one call decodes several.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def run(contents: tf.Tensor) -> tf.Tensor:
        options = {"fn_output_signature": tf.int32, "parallel_iterations": 1}
        return tf.map_fn(lambda content: tf.size(decode(content)), contents, **options)

    # Threads that call the function for the first time at once would each trace it.
    graph = run.get_concrete_function()
    return lambda contents: graph(tf.constant(contents))


def check_contents(
    contents: Sequence[Any], is_path: bool, decoder: ContentDecoder, allow_missing: bool = False
) -> list[ContentCheck]:
    """Check that contents can be read and decoded.

    Args:
        contents: Encoded contents, paths of files, or pixels.
        is_path: True if the contents are paths.
        decoder: Functions of the modality.
        allow_missing: True if a content may be empty. Its digest is then empty too.
    """
    if allow_missing:
        is_missing = [isinstance(content, bytes) and not content for content in contents]
        present = [content for content, missing in zip(contents, is_missing, strict=True) if not missing]
        checks = iter(check_contents(present, is_path, decoder))
        return [ContentCheck() if missing else next(checks) for missing in is_missing]
    read = [_read_file(content) if is_path else (content, "") for content in contents]
    encoded = [content for content, error in read if not error and isinstance(content, bytes)]
    errors = {}
    if encoded and _describe_decoding_error(encoded, decoder):
        errors = {content: error for content in encoded if (error := _describe_decoding_error([content], decoder))}
    results = []
    for content, read_error in read:
        if isinstance(content, bytes):
            raw, error = content, read_error or errors.get(content, "")
            warning = "" if error else decoder.warning(raw)
        else:  # pixels are decoded already
            raw, error, warning = content.tobytes(), read_error, ""
        results.append(ContentCheck("" if error else hashlib.sha256(raw).hexdigest(), error, warning))
    return results


class AnnotationCheck(NamedTuple):
    """Result of checking an annotation.

    Attributes:
        classes: Classes in the annotation, joined by `LABEL_SEPARATOR`.
        error: Reason why the annotation cannot be used; empty if it can be.
        repairs: Repairs and omissions, one entry each.
        digest: Hash of the annotation.
    """

    classes: str
    error: str
    repairs: tuple[str, ...]
    digest: str


def check_annotations(
    source: Source, sample: dict, localization_columns: Mapping[str, LocalizationTarget], image_column: str
) -> dict[str, AnnotationCheck]:
    """Check the annotations of a sample.

    Args:
        source: Source of the sample.
        sample: Raw columns of the sample.
        localization_columns: Localization target of each column with annotations.
        image_column: Column of the image.

    Returns:
        The result by column.
    """
    return {
        column: _check_annotation(source, column, sample, localization, image_column)
        for column, localization in localization_columns.items()
    }


def _check_annotation(
    source: Source, column: str, sample: dict, localization: LocalizationTarget, image_column: str
) -> AnnotationCheck:
    value, image = sample[column], sample[image_column]
    content, read_error = _read_file(value) if column in source.paths else (value, "")
    raw = content if isinstance(content, bytes) else content.tobytes()
    digest = hashlib.sha256(raw).hexdigest()
    if read_error:
        return AnnotationCheck("", f"{column}: {read_error}", (), digest)
    classes, error, repairs = localization.check_annotations(content)
    if not error and localization.has_class_indices:
        indices = [int(value) for value in classes.split(LABEL_SEPARATOR) if value]
        if unknown := [index for index in indices if index >= len(source.labels) and index != IGNORE_INDEX]:
            error = f"{column} has the value {unknown[0]}, which is not a class"
        elif isinstance(image, bytes) and (
            mismatch := _describe_size_mismatch(content, image, image_column in source.paths)
        ):
            error = f"{column} {mismatch}"
        else:
            classes = LABEL_SEPARATOR.join(source.labels[index] for index in indices if index != IGNORE_INDEX)
    return AnnotationCheck(classes, error, repairs, digest)


def _describe_size_mismatch(mask: bytes, image: bytes, is_path: bool) -> str:
    """Describe the sizes of a mask and its upright image if they differ, else return an empty string."""
    width, height = masks.read_mask_size(mask)
    with contextlib.suppress(OSError):  # an unreadable image has its own error
        image_height, image_width = read_image_size(Path(os.fsdecode(image)) if is_path else image)
        if (image_height, image_width) != (height, width):
            return f"of {width} x {height} pixels for an image of {image_width} x {image_height}"
    return ""


def _read_file(path: bytes) -> tuple[bytes, str]:
    """Return the content of a file and an error."""
    try:
        return Path(os.fsdecode(path)).read_bytes(), ""
    except (OSError, ValueError) as error:  # ValueError: the path contains a null byte
        return b"", getattr(error, "strerror", None) or str(error)


def _describe_decoding_error(contents: list[bytes], decoder: ContentDecoder) -> str:
    """Return the error of the first content that cannot be decoded; empty if all can be."""
    try:
        decoder.decode(contents)
    except tf.errors.OpError as error:
        return decoder.error_message(error)
    return ""
