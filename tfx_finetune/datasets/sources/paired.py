"""Several sources of one kind each, joined by label: pictures of one, sounds of another, texts of a third."""

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets import splits
from tfx_finetune.datasets.sources.in_memory import convert_to_text
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.ops.tf_data import as_numpy, get_schema, parallel_map
from tfx_finetune.types.components import SOURCES, SPLITS, Source


@dataclass(frozen=True)
class Member:
    """What one source contributes.

    Attributes:
        content: Its column, a tensor (n, ...).
        is_path: Whether that holds paths.
        label: (n,) array.
        file: (n,) array of names.
        side: (n,) array: the part in which each stands, empty for none.
    """

    content: tf.Tensor
    is_path: bool
    label: np.ndarray
    file: np.ndarray
    split: np.ndarray


@dataclass(frozen=True)
class PairedSource:
    """A `Source` of rows of its members, of which each part has its own.

    Attributes:
        name: Of the data.
        labels: Class names in order.
        members: By column.
        parts: For each part, (n, members): which row of each member.
    """

    name: str
    labels: tuple[str, ...]
    members: Mapping[str, Member]
    parts: Mapping[str, np.ndarray]

    @property
    def sizes(self) -> dict[str, int]:
        """Pairs in each part."""
        return {part: len(rows) for part, rows in self.parts.items()}

    @property
    def paths(self) -> tuple[str, ...]:
        """Columns that hold the path of a file."""
        return tuple(name for name, member in self.members.items() if member.is_path)

    def read(self, part: str) -> tf.data.Dataset:
        """Returns the pairs of a part, in order."""
        labels = tf.constant(next(iter(self.members.values())).label)
        files = [tf.constant(member.file) for member in self.members.values()]

        def pair(rows: tf.Tensor) -> dict[str, tf.Tensor]:
            each = tf.unstack(rows, len(self.members))
            found = {name: tf.gather(m.content, row) for (name, m), row in zip(self.members.items(), each, strict=True)}
            label = tf.gather(labels, each[0])
            file = tf.strings.join([tf.gather(*one) for one in zip(files, each, strict=True)], " + ")
            # Pairs share what they are made of, so none can leave its part.
            return found | {"label": label, "file": file, "group": tf.strings.join([f"{part}/", label])}

        return parallel_map(tf.data.Dataset.from_tensor_slices(self.parts[part]), pair)


@SOURCES.register
def paired(
    image: Spec | str = "",
    audio: Spec | str = "",
    text: Spec | str = "",
    test: float = 0.25,
    val: float = 0.1,
    limit: int = 0,
    seed: int = 0,
) -> Source:
    """Pictures, sounds and texts of different sources, put together at random where their label is the same.

    Each source is split by itself first: into the parts that it comes with, the others cut out of its training part by
    its groups. Only then are samples paired, within a part, so that nothing stands on two sides of the split. Of a
    held-out part is left out what an earlier one has too, such as a word that two languages share.

    Every sample of the source that has most of a label comes once, those of the others are repeated. What a source
    gives besides paths, such as texts and small arrays, is kept in memory.

    Args:
        image: A source of pictures: a spec such as idx(package='mnist'), or a path in quotes.
        audio: A source of sounds.
        text: A source of texts.
        test: Share to test on, of sources without such a part, between 0 and 1.
        val: Share to choose the best epoch on, likewise, together less than 1; 0 for none.
        limit: Most pairs of a label in each part; 0 for as many as there are samples.
        seed: Of the splits and of the pairing.

    Raises:
        UserError: There are fewer than two sources, one lacks what it is named after, or their labels differ.
    """
    wanted = {name: data for name, data in {"image": image, "audio": audio, "text": text}.items() if data}
    if len(wanted) < 2:
        allowed = "two or more of image, audio and text"
        raise UserError("paired wants several sources", got=", ".join(wanted) or "none", expected=allowed)
    if not (0 < test < 1 and 0 <= val < 1 and test + val < 1) or limit < 0 or seed < 0:
        received = f"test={test}, val={val}, limit={limit}, seed={seed}"
        raise UserError("paired is out of range", got=received, expected="shares of less than 1, others from 0")
    sources = {name: SOURCES.build(infer_source(str(data))) for name, data in wanted.items()}
    shares = {"test": test} | ({"val": val} if val else {})
    members = {name: _read_member(name, source, shares, seed) for name, source in sources.items()}
    _check_labels({name: set(member.label) for name, member in members.items()}, "")
    parts = {}
    for position, part in enumerate(SPLITS):
        sides = {name: set(member.label[member.split == part]) for name, member in members.items()}
        if part == "val" and not val and not all(sides.values()):
            continue
        _check_labels(sides, part)
        rng = np.random.default_rng((seed, position))
        parts[part] = _sample_pairs(list(members.values()), part, limit, rng)
    label = set(next(iter(members.values())).label)
    ordered = next((source.labels for source in sources.values() if set(source.labels) == label), ())
    return PairedSource("_".join(source.name for source in sources.values()), ordered, members, parts)


def _read_member(name: str, source: Source, fractions: Mapping[str, float], seed: int) -> Member:
    """Reads a source and splits it."""
    known = get_schema(source)
    if name not in known:
        raise UserError(f"this source has no {name} to pair", got=source.name, expected=list(known))
    rows = [
        (sample[name], *(convert_to_text(sample.get(column, b"")) for column in ("label", "file", "group")), part)
        for part in source.sizes
        for sample in as_numpy(source.read(part))
        if not isinstance(sample[name], bytes) or sample[name]
    ]
    if not rows:
        raise UserError(f"this source has no {name} to pair", got=source.name)
    content, *others = zip(*rows, strict=True)
    label, file, group, side = (np.array(column, object) for column in others)
    part = "all" if "all" in source.sizes else "train"
    lacking = {held: share for held, share in fractions.items() if held not in source.sizes}
    cut = np.flatnonzero(side == part)
    # By groups and names, not by content: equal words would tie all languages together.
    side[cut] = splits.split_by_stratified_groups(file[cut], label[cut], group[cut], lacking, seed)
    is_path = name in source.paths
    _drop_duplicates(name, [_compute_content_digest(value, is_path) for value in content], side)
    values = np.array(content, object) if isinstance(content[0], bytes) else np.stack(content)
    return Member(tf.constant(values), is_path, label, file, side)


def _drop_duplicates(name: str, digests: Sequence[str], split: np.ndarray) -> None:
    """Takes out of each part what an earlier one has."""
    seen: set[str] = set()
    for part in SPLITS:
        rows = np.flatnonzero(split == part).tolist()
        copies = [row for row in rows if digests[row] in seen]
        split[copies] = ""
        if copies:
            said = f"{len(copies)} of {len(rows)} samples of {name} in {part} are left out"
            progress.log(f"{said}: an earlier part has the same")
        seen |= {digests[row] for row in rows}


def _check_labels(labels_by_source: Mapping[str, set[str]], part: str) -> None:
    """Raises a `UserError` that names what differs where sources do not have the same labels."""
    every = set().union(*labels_by_source.values())
    where = f" in {part}" if part else ""
    todo = "hold out more of them" if part else "leave them out of the others"
    if not every:
        raise UserError(f"the sources to pair have nothing{where}", got=", ".join(labels_by_source), hint=todo)
    lacking = {name: sorted(every - labels) for name, labels in labels_by_source.items() if labels != every}
    if lacking:
        received = "; ".join(f"{name} lacks {', '.join(labels)}" for name, labels in lacking.items())
        raise UserError(f"the sources to pair have different labels{where}", got=received, hint=todo)


def _sample_pairs(members: Sequence[Member], part: str, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of the members (pairs, members), those of one label together, in random order."""
    found = []
    for label in sorted(set(members[0].label[members[0].split == part])):
        each = [np.flatnonzero((member.split == part) & (member.label == label)) for member in members]
        most = max(map(len, each))
        found.append(np.stack([_sample_rows(rows, min(limit or most, most), rng) for rows in each], 1))
    rows = np.concatenate(found)
    return rows[rng.permutation(len(rows))]


def _sample_rows(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many of the rows, each as often as the others but for one time."""
    rounds = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count]


def _compute_content_digest(content: Any, is_path: bool) -> str:
    """Hash of a content; of a file that cannot be read, which the survey tells of, that of its path."""
    if is_path:
        with contextlib.suppress(OSError, ValueError):
            content = Path(os.fsdecode(content)).read_bytes()
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()
