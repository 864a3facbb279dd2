"""Several sources as one, whose samples say in the column `source` which of them they come from."""

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
# Neither a picture, a sound nor UTF-8: a file that cannot be read is found by the survey, as any broken one is.
_UNREADABLE = b"\xff"


@dataclass(frozen=True)
class MixtureSource:
    """A `Source` of the samples of several others, which in each part are spread evenly over one another.

    A shuffle that holds a part of the samples so sees all sources in proportion. Where some sources are split and some
    are not, all of the latter stands in the part `train`, out of which splits are cut. Text columns that a source lacks
    are empty. Content that one source has as paths and another as pixels or encoded files becomes encoded files, of
    which a pass over some samples then reads all.

    Attributes:
        members: Sources by name.
        columns: Every column of any of them, and whether what it holds is to be encoded.
    """

    members: Mapping[str, Source]
    columns: Mapping[str, bool]

    @property
    def name(self) -> str:
        """Names of the sources, joined."""
        return "_".join(self.members)

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in each part of all sources."""
        total = Counter[str]()
        for name, member in self.members.items():
            total.update({part: member.sizes[own] for part, own in self._map_member_parts(name).items()})
        return {part: total[part] for part in _PARTS if part in total}

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of all, in order, where all sources fix theirs."""
        each = [member.labels for member in self.members.values()]
        return tuple(dict.fromkeys(name for names in each for name in names)) if all(each) else ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Columns that hold the path of a file."""
        every = dict.fromkeys(column for member in self.members.values() for column in member.paths)
        return tuple(column for column in every if not self.columns[column])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found in the annotations of each."""
        every = ((name, note) for name, member in self.members.items() for note in getattr(member, "notes", ()))
        return tuple(f"{name}: {note}" for name, note in every)

    def read(self, part: str) -> tf.data.Dataset:
        """Returns the samples of a part, in order."""
        holders = self._find_member_parts(part)
        each = [parallel_map(self.members[name].read(own), self._make_unify_fn(name)) for name, own in holders.items()]
        choice = tf.data.Dataset.from_tensor_slices(self._interleave(holders))
        return tf.data.Dataset.choose_from_datasets(each, choice, stop_on_empty_dataset=False)

    def _find_member_parts(self, part: str) -> dict[str, str]:
        """The sources that have some of a part, and which of their own parts that is."""
        return {name: own for name in self.members if (own := self._map_member_parts(name).get(part))}

    def _interleave(self, member_parts: Mapping[str, str]) -> np.ndarray:
        """Which of them each sample of their part is of, (n,)."""
        counts = [self.members[name].sizes[own] for name, own in member_parts.items()]
        places = [(np.arange(count) + 0.5) / count for count in counts]
        return np.repeat(np.arange(len(counts)), counts)[np.argsort(np.concatenate(places), kind="stable")]

    def _map_member_parts(self, name: str) -> dict[str, str]:
        """The parts of a source, each by the part of the whole in which it stands."""
        some = any("all" not in member.sizes for member in self.members.values())
        return {"train" if part == "all" and some else part: part for part in self.members[name].sizes}

    def _make_unify_fn(self, name: str) -> Any:
        """The function from a sample of one source to one with all columns."""
        paths = self.members[name].paths

        def united(sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            found = {column: sample.get(column, tf.constant("")) for column in self.columns}
            for column, encode in self.columns.items():
                if encode and column in sample:
                    found[column] = _read_file(sample[column]) if column in paths else _encode_image(sample[column])
            if "group" in sample:  # another one in every source
                group = sample["group"]
                found["group"] = tf.where(group == "", "", tf.strings.join([name, "/", group]))
            return found | {"file": tf.strings.join([name, ": ", sample["file"]]), SOURCE_COLUMN: tf.constant(name)}

        return united


@dataclass(frozen=True)
class RandomAccessMixture(MixtureSource):
    """The same of sources that can be read in any order."""

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the sample at a place, a scalar, among those of all parts in order."""
        owner, own = (tf.gather(values, index) for values in self._member_indices)

        def reads(name: str, member: RandomAccessSource) -> Callable[[], dict[str, tf.Tensor]]:
            return lambda: self._make_unify_fn(name)(member[own])

        each = [reads(name, cast(RandomAccessSource, member)) for name, member in self.members.items()]
        sample: dict[str, tf.Tensor] = tf.switch_case(owner, each)
        return sample

    @functools.cached_property
    def _member_indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each sample of all parts, its source by number, int32 (n,), and its place there, (n,)."""
        owners, places, names = [], [], list(self.members)
        for holders in map(self._find_member_parts, self.sizes):
            turns = self._interleave(holders)
            place = np.zeros_like(turns)
            for turn, (name, part) in enumerate(holders.items()):
                sizes = self.members[name].sizes
                first = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
                place[turns == turn] = first[part] + np.arange(sizes[part])
            owners.append(np.array([names.index(name) for name in holders], np.int32)[turns])
            places.append(place)
        return np.concatenate(owners), np.concatenate(places)


def open_sources(specs: Mapping[str, Spec]) -> Source:
    """Opens the data of a run: several sources as one, or the one without a name as it is.

    Raises:
        UserError: One cannot be opened, or they have no modality in common.
    """
    members = {name: SOURCES.build(spec) for name, spec in specs.items()}
    if list(members) == [""]:
        return members[""]
    known = {name: get_schema(member) for name, member in members.items()}
    contents = {name: [column for column in columns if column in MODALITIES] for name, columns in known.items()}
    if not set.intersection(*map(set, contents.values())):
        received = "; ".join(f"{name}: {', '.join(found) or 'none'}" for name, found in contents.items())
        raise UserError("the sources have no modality in common", got=received, hint="mix those of one")
    for name in known:
        if SOURCE_COLUMN in known[name]:
            progress.log(f"the column {SOURCE_COLUMN} of {name} gives way to the name of the source")
    every = dict.fromkeys(column for columns in known.values() for column in columns)
    files = {*MODALITIES, "mask"}
    kind = (
        RandomAccessMixture
        if all(isinstance(member, RandomAccessSource) for member in members.values())
        else MixtureSource
    )
    united = kind(members, {column: column in files and _needs_encoding(column, members, known) for column in every})
    for name, member in members.items():
        if "mask" in known[name] and united.labels[: len(member.labels)] != member.labels:
            received = f"{name}: {', '.join(member.labels)}; all: {', '.join(united.labels) or 'not known beforehand'}"
            todo = "give all sources of masks the same classes in the same order, and name them first"
            raise UserError("the values of masks would be other classes", got=received, hint=todo)
    return united


def check_tower_columns(source: Source, tower_columns: Mapping[str, str]) -> None:
    """Checks that every source has what a lone tower takes; of several towers, one may have gaps.

    Raises:
        UserError: One has not.
    """
    if not isinstance(source, MixtureSource) or len(tower_columns) > 1:
        return
    (column,) = tower_columns.values()
    for name, member in source.members.items():
        if column not in (known := get_schema(member)):
            received, todo = f"{name}: {', '.join(known)}", "leave it out, or take a tower for what all have"
            raise UserError(f"a source has no {column} for the tower", got=received, hint=todo)


def check_same_splits(source: Source) -> None:
    """Checks that all sources came with splits, or none, without which a table of them would be split as none was.

    Raises:
        UserError: Some did.
    """
    whole = (
        {name: "all" in member.sizes for name, member in source.members.items()}
        if isinstance(source, MixtureSource)
        else {}
    )
    if len(set(whole.values())) > 1:
        received = ", ".join(f"{name}: {'none' if it else 'split'}" for name, it in whole.items())
        todo = "clean each by itself, with --data"
        raise UserError("--fix wants sources that all came with splits, or none", got=received, hint=todo)


def _needs_encoding(column: str, members: Mapping[str, Source], schemas: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether content comes in several forms, which only an encoded file is common to."""
    having = [name for name in members if column in schemas[name]]
    if all(column in members[name].paths for name in having):
        return False
    kinds = {(schemas[name][column].dtype, *schemas[name][column].shape[2:]) for name in having}
    pixels = all(schemas[name][column].dtype != tf.string for name in having)
    return len(kinds) > 1 or (pixels and len(having) < len(members)) or any(column in members[n].paths for n in having)


def _read_file(path: tf.Tensor) -> tf.Tensor:
    """The content of a file; of one that cannot be read, what cannot be decoded."""

    def read(name: bytes) -> bytes:
        try:
            return Path(os.fsdecode(name)).read_bytes() if name else b""
        except (OSError, ValueError):
            return _UNREADABLE

    return tf.ensure_shape(tf.numpy_function(read, [path], tf.string), ())


def _encode_image(content: tf.Tensor) -> tf.Tensor:
    """Pixels as a PNG; what is encoded stays as it is."""
    if content.dtype == tf.string:
        return content
    return tf.io.encode_png(content if content.shape.rank == 3 else content[..., None])
