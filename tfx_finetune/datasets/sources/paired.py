"""Source of pairs: images, audio files and texts of different sources, joined by label."""

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
    """Samples of one of the sources.

    Attributes:
        content: Tensor (n, ...) of the column that is paired.
        is_path: True if the column holds paths.
        label, file: Object arrays (n,) of labels and sample names.
        split: Object array (n,) of splits; empty for samples that are left out.
    """

    content: tf.Tensor
    is_path: bool
    label: np.ndarray
    file: np.ndarray
    split: np.ndarray


@dataclass(frozen=True)
class PairedSource:
    """A `Source` of pairs of samples.

    Attributes:
        name: Name of the data.
        labels: Class names in order; empty if they are to be collected from the samples.
        members: Samples of each source, by column.
        parts: int array (pairs, members) of each part: the row of each member.
    """

    name: str
    labels: tuple[str, ...]
    members: Mapping[str, Member]
    parts: Mapping[str, np.ndarray]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of pairs of each part."""
        return {part: len(rows) for part, rows in self.parts.items()}

    @property
    def paths(self) -> tuple[str, ...]:
        """Columns that hold the path of a file."""
        return tuple(name for name, member in self.members.items() if member.is_path)

    def read(self, part: str) -> tf.data.Dataset:
        """Return the pairs of a part, in order."""
        labels = tf.constant(next(iter(self.members.values())).label)
        files = [tf.constant(member.file) for member in self.members.values()]

        def make_sample(rows: tf.Tensor) -> dict[str, tf.Tensor]:
            indices = tf.unstack(rows, len(self.members))
            contents = {
                name: tf.gather(member.content, index)
                for (name, member), index in zip(self.members.items(), indices, strict=True)
            }
            label = tf.gather(labels, indices[0])
            names = [tf.gather(file, index) for file, index in zip(files, indices, strict=True)]
            # Pairs of a part share samples, so that none of them may leave its part: they are one group per label.
            group = tf.strings.join([f"{part}/", label])
            return contents | {"label": label, "file": tf.strings.join(names, " + "), "group": group}

        return parallel_map(tf.data.Dataset.from_tensor_slices(self.parts[part]), make_sample)


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
    """Pair images, audio files and texts of different sources at random within each label.

    Each source is split first: its own splits are kept, missing ones are cut from its training part by its groups.
    Samples are then paired within a split, so that no sample is in two splits. Content that an earlier split has too,
    such as a word that two languages share, is left out of the later one.

    Within each label, every sample of the source with most samples is used once; those of other sources are repeated.
    Content other than paths, such as texts and small arrays, is kept in memory.

    Args:
        image: Source of images: a spec such as idx(package='mnist'), or a path in quotes.
        audio: Source of audio files.
        text: Source of texts.
        test: float, 0 to 1. Fraction of the test split, for sources without one. Default 0.25.
        val: float, 0 to 1. Fraction of the validation split, for sources without one; 0 for none. Default 0.1.
        limit: int >= 0. Maximum number of pairs per label and split. Default 0: no limit.
        seed: int >= 0. Seed of the splits and of the pairs. Default 0.

    Raises:
        UserError: If there are fewer than two sources, a source lacks the column that it is named after, or the labels
            of the sources differ.
    """
    specs = {name: spec for name, spec in {"image": image, "audio": audio, "text": text}.items() if spec}
    if len(specs) < 2:
        expected = "two or more of image, audio and text"
        raise UserError("paired() needs several sources", got=", ".join(specs) or "none", expected=expected)
    if not (0 < test < 1 and 0 <= val < 1 and test + val < 1) or limit < 0 or seed < 0:
        got = f"test={test}, val={val}, limit={limit}, seed={seed}"
        expected = "fractions whose sum is less than 1, and other numbers of 0 or more"
        raise UserError("An option of paired() is out of range", got=got, expected=expected)
    sources = {name: SOURCES.build(infer_source(str(spec))) for name, spec in specs.items()}
    fractions = {"test": test} | ({"val": val} if val else {})
    members = {name: _read_member(name, source, fractions, seed) for name, source in sources.items()}
    _check_labels({name: set(member.label) for name, member in members.items()}, "")
    parts = {}
    for index, part in enumerate(SPLITS):
        labels_by_source = {name: set(member.label[member.split == part]) for name, member in members.items()}
        if part == "val" and not val and not all(labels_by_source.values()):
            continue
        _check_labels(labels_by_source, part)
        parts[part] = _sample_pairs(list(members.values()), part, limit, np.random.default_rng((seed, index)))
    used_labels = set(next(iter(members.values())).label)
    labels = next((source.labels for source in sources.values() if set(source.labels) == used_labels), ())
    return PairedSource("_".join(source.name for source in sources.values()), labels, members, parts)


def _read_member(name: str, source: Source, fractions: Mapping[str, float], seed: int) -> Member:
    """Read all samples of a source and split them."""
    schema = get_schema(source)
    if name not in schema:
        raise UserError(f"A source of paired() has no column {name}", got=source.name, expected=list(schema))
    rows = [
        (sample[name], *(convert_to_text(sample.get(column, b"")) for column in ("label", "file", "group")), part)
        for part in source.sizes
        for sample in as_numpy(source.read(part))
        if not isinstance(sample[name], bytes) or sample[name]
    ]
    if not rows:
        raise UserError(f"A source of paired() has no values in the column {name}", got=source.name)
    contents, *others = zip(*rows, strict=True)
    label, file, group, split = (np.array(column, object) for column in others)
    train_part = "all" if "all" in source.sizes else "train"
    missing_splits = {held_out: fraction for held_out, fraction in fractions.items() if held_out not in source.sizes}
    train_rows = np.flatnonzero(split == train_part)
    # By group and file name, not by content: equal words would connect all languages.
    split[train_rows] = splits.split_by_stratified_groups(
        file[train_rows], label[train_rows], group[train_rows], missing_splits, seed
    )
    is_path = name in source.paths
    _drop_duplicates(name, [_compute_content_digest(content, is_path) for content in contents], split)
    values = np.array(contents, object) if isinstance(contents[0], bytes) else np.stack(contents)
    return Member(tf.constant(values), is_path, label, file, split)


def _drop_duplicates(name: str, digests: Sequence[str], split: np.ndarray) -> None:
    """Clear, in place, the split of samples whose content is in an earlier split."""
    earlier_digests: set[str] = set()
    for part in SPLITS:
        rows = np.flatnonzero(split == part).tolist()
        duplicates = [row for row in rows if digests[row] in earlier_digests]
        split[duplicates] = ""
        if duplicates:
            counts = f"{len(duplicates)} of {len(rows)} samples of {name} in {part}"
            progress.log(f"{counts} are left out, because an earlier split has the same content")
        earlier_digests |= {digests[row] for row in rows}


def _check_labels(labels_by_source: Mapping[str, set[str]], part: str) -> None:
    """Raise a `UserError` if the sources do not have the same labels."""
    all_labels = set().union(*labels_by_source.values())
    in_part = f" in the split {part}" if part else ""
    hint = "hold out more of them" if part else "leave these labels out of the other sources"
    if not all_labels:
        raise UserError(f"The sources of paired() have no samples{in_part}", got=", ".join(labels_by_source), hint=hint)
    missing = {name: sorted(all_labels - labels) for name, labels in labels_by_source.items() if labels != all_labels}
    if missing:
        got = "; ".join(f"{name} lacks {', '.join(labels)}" for name, labels in missing.items())
        raise UserError(f"The sources of paired() have different labels{in_part}", got=got, hint=hint)


def _sample_pairs(members: Sequence[Member], part: str, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows of the members, int array (pairs, members), in random order."""
    pairs = []
    for label in sorted(set(members[0].label[members[0].split == part])):
        rows_by_member = [np.flatnonzero((member.split == part) & (member.label == label)) for member in members]
        max_count = max(map(len, rows_by_member))
        count = min(limit or max_count, max_count)
        pairs.append(np.stack([_sample_rows(rows, count, rng) for rows in rows_by_member], 1))
    rows = np.concatenate(pairs)
    return rows[rng.permutation(len(rows))]


def _sample_rows(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` of the rows in random order; counts of two rows differ by at most one."""
    rounds = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count]


def _compute_content_digest(content: Any, is_path: bool) -> str:
    """Hash a content; for a file that cannot be read, which the survey reports, hash its path."""
    if is_path:
        with contextlib.suppress(OSError, ValueError):
            content = Path(os.fsdecode(content)).read_bytes()
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()
