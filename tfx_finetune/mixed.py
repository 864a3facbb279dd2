"""STATION: several sources as one, whose samples say in the column `source` which of them they come from."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune import splits
from tfx_finetune.contracts import LABEL_SEPARATOR, MODALITIES, SOURCES, Source
from tfx_finetune.core import progress
from tfx_finetune.core.config import Samples
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.dataset import mapped, schema
from tfx_finetune.samples import Table

LANE = "source"
_PARTS = ("train", "val", "test", "all")
# Neither a picture, a sound nor UTF-8: a file that cannot be read is found by the survey, as any broken one is.
_UNREADABLE = b"\xff"


@dataclass(frozen=True)
class Mixed:
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
            total.update({part: member.sizes[own] for part, own in self._parts(name).items()})
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
    def notes(self) -> tuple[str, ...]:
        """What was found in the annotations of each."""
        every = ((name, note) for name, member in self.members.items() for note in getattr(member, "notes", ()))
        return tuple(f"{name}: {note}" for name, note in every)

    def read(self, part: str) -> tf.data.Dataset:
        """Returns the samples of a part, in order."""
        holders = {name: own for name in self.members if (own := self._parts(name).get(part))}
        counts = [self.members[name].sizes[own] for name, own in holders.items()]
        places = [(np.arange(count) + 0.5) / count for count in counts]
        turns = np.repeat(np.arange(len(counts)), counts)
        turns = turns[np.argsort(np.concatenate(places), kind="stable")]
        each = [mapped(self.members[name].read(own), self._united(name)) for name, own in holders.items()]
        choice = tf.data.Dataset.from_tensor_slices(turns.astype(np.int64))
        return tf.data.Dataset.choose_from_datasets(each, choice, stop_on_empty_dataset=False)

    def _parts(self, name: str) -> dict[str, str]:
        """The parts of a source, each by the part of the whole in which it stands."""
        some = any("all" not in member.sizes for member in self.members.values())
        return {"train" if part == "all" and some else part: part for part in self.members[name].sizes}

    def _united(self, name: str) -> Any:
        """The function from a sample of one source to one with all columns."""
        paths = self.members[name].paths

        def united(sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            found = {column: sample.get(column, tf.constant("")) for column in self.columns}
            for column, encode in self.columns.items():
                if encode and column in sample:
                    found[column] = _read(sample[column]) if column in paths else _encoded(sample[column])
            if "group" in sample:  # another one in every source
                group = sample["group"]
                found["group"] = tf.where(group == "", "", tf.strings.join([name, "/", group]))
            return found | {"file": tf.strings.join([name, ": ", sample["file"]]), LANE: tf.constant(name)}

        return united


def open_sources(specs: Mapping[str, Spec]) -> Source:
    """Opens the data of a run: several sources as one, or the one without a name as it is.

    Raises:
        UserError: One cannot be opened, or they have no modality in common.
    """
    members = {name: SOURCES.build(spec) for name, spec in specs.items()}
    if list(members) == [""]:
        return members[""]
    known = {name: schema(member) for name, member in members.items()}
    contents = {name: [column for column in columns if column in MODALITIES] for name, columns in known.items()}
    if not set.intersection(*map(set, contents.values())):
        received = "; ".join(f"{name}: {', '.join(found) or 'none'}" for name, found in contents.items())
        raise UserError("the sources have no modality in common", received=received, todo="mix those of one")
    for name in known:
        if LANE in known[name]:
            progress.say(f"the column {LANE} of {name} gives way to the name of the source")
    every = dict.fromkeys(column for columns in known.values() for column in columns)
    files = {*MODALITIES, "mask"}
    united = Mixed(members, {column: column in files and _differs(column, members, known) for column in every})
    for name, member in members.items():
        if "mask" in known[name] and united.labels[: len(member.labels)] != member.labels:
            received = f"{name}: {', '.join(member.labels)}; all: {', '.join(united.labels) or 'not known beforehand'}"
            todo = "give all sources of masks the same classes in the same order, and name them first"
            raise UserError("the values of masks would be other classes", received=received, todo=todo)
    return united


def check_places(source: Source, places: Mapping[str, str]) -> None:
    """Checks that every source has what a lone tower takes; of several towers, one may have gaps.

    Raises:
        UserError: One has not.
    """
    if not isinstance(source, Mixed) or len(places) > 1:
        return
    (column,) = places.values()
    for name, member in source.members.items():
        if column not in (known := schema(member)):
            received, todo = f"{name}: {', '.join(known)}", "leave it out, or take a tower for what all have"
            raise UserError(f"a source has no {column} for the tower", received=received, todo=todo)


def check_alike(source: Source) -> None:
    """Checks that all sources came with splits, or none, without which a table of them would be split as none was.

    Raises:
        UserError: Some did.
    """
    whole = (
        {name: "all" in member.sizes for name, member in source.members.items()} if isinstance(source, Mixed) else {}
    )
    if len(set(whole.values())) > 1:
        received = ", ".join(f"{name}: {'none' if it else 'split'}" for name, it in whole.items())
        todo = "clean each by itself, with --data"
        raise UserError("--fix wants sources that all came with splits, or none", received=received, todo=todo)


def divided(
    table: Table, source: Source, columns: tuple[str, ...], samples: Samples, seed: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Carves the splits that a source lacks out of its training part, of several sources for each by itself.

    Args:
        table: The samples; their splits are the source's own parts.
        source: The data.
        columns: Of labels, by all of which at once it is stratified.
        samples: Which shares are held out.
        seed: Another seed gives another split.

    Returns:
        The side of each sample, (n,), and what a person should know of samples that several sources have.

    Raises:
        UserError: A source has no training part.
    """
    members = source.members if isinstance(source, Mixed) else {"": source}
    # Test comes first: a class of two samples has the second one there.
    wanted = {"test": samples.test, "val": samples.val}
    shares = {}
    for name, member in members.items():
        if not {"all", "train"} & set(member.sizes):
            received = ": ".join(filter(None, [name, ", ".join(member.sizes)]))
            todo = "give it a split train, or none, so that one is made"
            raise UserError("the data has no training part", received=received, todo=todo)
        shares[name] = {held: share for held, share in wanted.items() if held not in member.sizes and share > 0}
    lanes = table.columns[LANE] if isinstance(source, Mixed) else np.full(len(table.split), "", object)
    keys = np.array([_keys(table, row, columns) for row in range(len(table.split))], object)
    split = splits.divide(table.digest, keys, table.columns["group"], table.split, lanes, shares, seed)
    return split, tuple(_notes(table, split, columns)) if isinstance(source, Mixed) else ()


def _keys(table: Table, row: int, columns: tuple[str, ...]) -> str:
    """The row's labels in all columns."""
    labels = ((column, label) for column in columns for label in table.columns[column][row].split(LABEL_SEPARATOR))
    return LABEL_SEPARATOR.join(f"{column}={label}" for column, label in labels)


def _notes(table: Table, split: np.ndarray, columns: tuple[str, ...]) -> Iterator[str]:
    """What several sources have in common, and what one has alone; said and returned."""
    used = split != ""
    lanes, sides = _by(table.digest[used], table.columns[LANE][used]), _by(table.digest[used], split[used])
    shared = [digest for digest, names in lanes.items() if len(names) > 1]
    notes = [f"{len(shared)} samples stand in more than one source"] if shared else []
    if count := sum(len(sides[digest]) > 1 for digest in shared):
        notes.append(f"{count} samples of one source stand on another side of the split that another one came with")
    for column in (column for column in columns if column != LANE):
        found = _by(table.columns[LANE][used], table.columns[column][used])
        for name, mine in found.items():
            others = set().union(*(labels for other, labels in found.items() if other != name))
            if len(found) > 1 and (alone := sorted(mine - others - {""})):
                notes.append(
                    f"{len(alone)} of {len(mine)} classes of {column} are in the source {name} alone: "
                    f"{progress.some(alone)}"
                )
    for note in notes:
        progress.say(note)
        yield note


def _by(keys: np.ndarray, values: np.ndarray) -> dict[str, set[str]]:
    """The values, of several labels each, that stand beside each key."""
    found: dict[str, set[str]] = {}
    for key, value in sorted(set(zip(keys, values, strict=True))):
        found.setdefault(key, set()).update(value.split(LABEL_SEPARATOR))
    return found


def _differs(column: str, members: Mapping[str, Source], known: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether content comes in several forms, which only an encoded file is common to."""
    having = [name for name in members if column in known[name]]
    if all(column in members[name].paths for name in having):
        return False
    kinds = {(known[name][column].dtype, *known[name][column].shape[2:]) for name in having}
    pixels = all(known[name][column].dtype != tf.string for name in having)
    return len(kinds) > 1 or (pixels and len(having) < len(members)) or any(column in members[n].paths for n in having)


def _read(path: tf.Tensor) -> tf.Tensor:
    """The content of a file; of one that cannot be read, what cannot be decoded."""

    def read(name: bytes) -> bytes:
        try:
            return Path(os.fsdecode(name)).read_bytes() if name else b""
        except (OSError, ValueError):
            return _UNREADABLE

    return tf.ensure_shape(tf.numpy_function(read, [path], tf.string), ())


def _encoded(content: tf.Tensor) -> tf.Tensor:
    """Pixels as a PNG; what is encoded stays as it is."""
    if content.dtype == tf.string:
        return content
    return tf.io.encode_png(content if content.shape.rank == 3 else content[..., None])
