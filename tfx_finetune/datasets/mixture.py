"""Mixture of several sources: one source whose column `source` names the member of each sample."""

import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow as tf

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.ops.tf_data import get_schema, parallel_map
from tfx_finetune.types.components import MODALITIES, SOURCES, Source
from tfx_finetune.types.localization import RandomAccessSource

SOURCE_COLUMN = "source"
_PARTS = ("train", "val", "test", "all")
# Neither an image, a WAV file nor UTF-8: the survey finds an unreadable file as it finds a broken one.
_UNREADABLE = b"\xff"


@dataclass(frozen=True)
class MixtureSource:
    """A `Source` of the samples of several sources, which are interleaved evenly in each part.

    A shuffle buffer with a part of the samples therefore contains all sources in proportion. If only some sources have
    splits, all samples of the others are in the part `train`, from which splits are cut. Text columns that a source
    lacks are empty strings. If some sources have paths and others pixels or encoded files, all are read as encoded
    files; reading some samples then reads the files of all.

    Attributes:
        members: Sources by name.
        columns: All columns of the sources; True if the values of a column are converted to encoded files.
    """

    members: Mapping[str, Source]
    columns: Mapping[str, bool]

    @property
    def name(self) -> str:
        """Joined names of the sources."""
        return "_".join(self.members)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of each part."""
        total = Counter[str]()
        for name, member in self.members.items():
            total.update({part: member.sizes[member_part] for part, member_part in self._map_parts(name).items()})
        return {part: total[part] for part in _PARTS if part in total}

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of all sources in order; empty if a source does not fix its class names."""
        labels = [member.labels for member in self.members.values()]
        return tuple(dict.fromkeys(itertools.chain.from_iterable(labels))) if all(labels) else ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Columns that hold the path of a file."""
        columns = dict.fromkeys(column for member in self.members.values() for column in member.paths)
        return tuple(column for column in columns if not self.columns[column])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Issues in the annotations of each source."""
        return tuple(
            f"{name}: {warning}" for name, member in self.members.items() for warning in getattr(member, "warnings", ())
        )

    def read(self, part: str) -> tf.data.Dataset:
        """Return the samples of a part, in order."""
        member_parts = self._find_member_parts(part)
        datasets = [
            parallel_map(self.members[name].read(member_part), self._make_unify_fn(name))
            for name, member_part in member_parts.items()
        ]
        choices = tf.data.Dataset.from_tensor_slices(self._interleave(member_parts))
        return tf.data.Dataset.choose_from_datasets(datasets, choices, stop_on_empty_dataset=False)

    def _find_member_parts(self, part: str) -> dict[str, str]:
        """Return the part of each source that belongs to a part of the mixture."""
        member_parts = {name: self._map_parts(name).get(part, "") for name in self.members}
        return {name: member_part for name, member_part in member_parts.items() if member_part}

    def _interleave(self, member_parts: Mapping[str, str]) -> np.ndarray:
        """Return the number of the source of each sample, (n,)."""
        counts = [self.members[name].sizes[member_part] for name, member_part in member_parts.items()]
        positions = [(np.arange(count) + 0.5) / count for count in counts]
        return np.repeat(np.arange(len(counts)), counts)[np.argsort(np.concatenate(positions), kind="stable")]

    def _map_parts(self, name: str) -> dict[str, str]:
        """Map parts of the mixture to the parts of a source."""
        has_splits = any("all" not in member.sizes for member in self.members.values())
        return {"train" if part == "all" and has_splits else part: part for part in self.members[name].sizes}

    def _make_unify_fn(self, name: str) -> Any:
        """Return a function that adds the missing columns to the samples of a source."""
        paths = self.members[name].paths

        def unify(sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            unified = {column: sample.get(column, tf.constant("")) for column in self.columns}
            for column, encode in self.columns.items():
                if encode and column in sample:
                    unified[column] = _read_file(sample[column]) if column in paths else _encode_image(sample[column])
            if "group" in sample:  # equal groups of two sources are different groups
                group = sample["group"]
                unified["group"] = tf.where(group == "", "", tf.strings.join([name, "/", group]))
            return unified | {"file": tf.strings.join([name, ": ", sample["file"]]), SOURCE_COLUMN: tf.constant(name)}

        return unify


@dataclass(frozen=True)
class RandomAccessMixture(MixtureSource):
    """A mixture of sources whose samples can be read by index."""

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return one sample.

        Args:
            index: int scalar. Position of the sample if all parts are read in order.
        """
        member_number, member_index = (tf.gather(values, index) for values in self._member_indices)

        def make_reader(name: str, member: RandomAccessSource) -> Callable[[], dict[str, tf.Tensor]]:
            return lambda: self._make_unify_fn(name)(member[member_index])

        readers = [make_reader(name, cast(RandomAccessSource, member)) for name, member in self.members.items()]
        sample: dict[str, tf.Tensor] = tf.switch_case(member_number, readers)
        return sample

    @functools.cached_property
    def _member_indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of the source, int32 (n,), and index in that source, (n,), of each sample of all parts."""
        numbers, indices, names = [], [], list(self.members)
        for member_parts in map(self._find_member_parts, self.sizes):
            choices = self._interleave(member_parts)
            part_indices = np.zeros_like(choices)
            for choice, (name, member_part) in enumerate(member_parts.items()):
                sizes = self.members[name].sizes
                offsets = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
                part_indices[choices == choice] = offsets[member_part] + np.arange(sizes[member_part])
            numbers.append(np.array([names.index(name) for name in member_parts], np.int32)[choices])
            indices.append(part_indices)
        return np.concatenate(numbers), np.concatenate(indices)


def open_sources(specs: Mapping[str, Spec]) -> Source:
    """Open the data of a run.

    Args:
        specs: Source specs by name; a single source has an empty name.

    Returns:
        The single source, or a mixture of the named ones.

    Raises:
        UserError: If a source cannot be opened, or the sources have no modality in common.
    """
    members = {name: SOURCES.build(spec) for name, spec in specs.items()}
    if list(members) == [""]:
        return members[""]
    schemas = {name: get_schema(member) for name, member in members.items()}
    modalities = {name: [column for column in schema if column in MODALITIES] for name, schema in schemas.items()}
    if not set.intersection(*map(set, modalities.values())):
        got = "; ".join(f"{name}: {', '.join(columns) or 'none'}" for name, columns in modalities.items())
        raise UserError("The sources have no modality in common", got=got, hint="mix sources of one modality")
    for name in schemas:
        if SOURCE_COLUMN in schemas[name]:
            progress.log(f"the column {SOURCE_COLUMN} of {name} is replaced by the name of the source")
    columns = dict.fromkeys(column for schema in schemas.values() for column in schema)
    file_columns = {*MODALITIES, "mask"}
    encode_columns = {
        column: column in file_columns and _needs_encoding(column, members, schemas) for column in columns
    }
    has_random_access = all(isinstance(member, RandomAccessSource) for member in members.values())
    mixture = (RandomAccessMixture if has_random_access else MixtureSource)(members, encode_columns)
    for name, member in members.items():
        if "mask" in schemas[name] and mixture.labels[: len(member.labels)] != member.labels:
            all_labels = ", ".join(mixture.labels) or "unknown"
            got = f"{name}: {', '.join(member.labels)}; all: {all_labels}"
            hint = "give all sources of masks the same classes in the same order, and name these sources first"
            raise UserError("Mask values of a source would become other classes", got=got, hint=hint)
    return mixture


def check_tower_columns(source: Source, tower_columns: Mapping[str, str]) -> None:
    """Check that every source has the column of a single tower; several towers may lack columns.

    Raises:
        UserError: If a source lacks the column.
    """
    if not isinstance(source, MixtureSource) or len(tower_columns) > 1:
        return
    (column,) = tower_columns.values()
    for name, member in source.members.items():
        if column not in (schema := get_schema(member)):
            got = f"{name}: {', '.join(schema)}"
            hint = "leave the source out, or use a backbone for a modality that all sources have"
            raise UserError(f"A source has no column {column} for the backbone", got=got, hint=hint)


def check_same_splits(source: Source) -> None:
    """Check that all sources have splits, or none, because a cleaned table of both would be split differently.

    Raises:
        UserError: If only some sources have splits.
    """
    if not isinstance(source, MixtureSource):
        return
    has_splits = {name: "all" not in member.sizes for name, member in source.members.items()}
    if len(set(has_splits.values())) > 1:
        got = ", ".join(f"{name}: {'splits' if value else 'no splits'}" for name, value in has_splits.items())
        hint = "clean each source separately by --data"
        raise UserError("--fix needs sources that all have splits, or none", got=got, hint=hint)


def _needs_encoding(column: str, members: Mapping[str, Source], schemas: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return True if sources have a column in several forms, which have only encoded files in common."""
    names = [name for name in members if column in schemas[name]]
    if all(column in members[name].paths for name in names):
        return False
    forms = {(schemas[name][column].dtype, *schemas[name][column].shape[2:]) for name in names}
    are_pixels = all(schemas[name][column].dtype != tf.string for name in names)
    has_paths = any(column in members[name].paths for name in names)
    return len(forms) > 1 or (are_pixels and len(names) < len(members)) or has_paths


def _read_file(path: tf.Tensor) -> tf.Tensor:
    """Return the content of a file; for an unreadable file, content that cannot be decoded."""

    def read(name: bytes) -> bytes:
        try:
            return Path(os.fsdecode(name)).read_bytes() if name else b""
        except (OSError, ValueError):
            return _UNREADABLE

    return tf.ensure_shape(tf.numpy_function(read, [path], tf.string), ())


def _encode_image(content: tf.Tensor) -> tf.Tensor:
    """Encode pixels as PNG; return encoded content unchanged."""
    if content.dtype == tf.string:
        return content
    return tf.io.encode_png(content if content.shape.rank == 3 else content[..., None])
