"""TensorFlow Datasets: any name and version."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError, did_you_mean, first_line
from tfx_finetune.datasets.sources.tfds_places import BoxFeature, get_mask_class_names, shift_mask
from tfx_finetune.types.components import LABEL_SEPARATOR, SOURCES, Source

Column = tuple[str, Callable[[Any], tf.Tensor]]
"""A feature, and what makes a column of its value."""


@dataclass(frozen=True)
class TfdsSource:
    """A `Source` that reads a prepared TFDS data set."""

    name: str
    labels: tuple[str, ...]
    sizes: dict[str, int]
    paths: tuple[str, ...]
    builder: Any
    parts: dict[str, str]
    columns: Mapping[str, Column]

    def read(self, part: str) -> tf.data.Dataset:
        """Returns the samples of a part, in the order in which they are stored."""
        import tensorflow_datasets as tfds

        split = self.parts[part]
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        # The modality decodes the picture; features that are no column are not read at all.
        wanted = {name: True for name, _ in self.columns.values()}
        features = self.builder.info.features
        raw = {name: tfds.decode.SkipDecoding() for name in wanted if _has_type(features[name], "Image")}
        decoders = tfds.decode.PartialDecoding(wanted, decoders=raw)
        ds = self.builder.as_dataset(split=split, decoders=decoders, read_config=config, shuffle_files=False)

        def sample(index: tf.Tensor, row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            file = tf.strings.join([f"{self.name}/{split}/", tf.strings.as_string(index)])
            return {column: made(row[name]) for column, (name, made) in self.columns.items()} | {"file": file}

        return ds.enumerate().map(sample)


@SOURCES.register
def tfds(
    name: str,
    data_dir: str = "",
    train: str = "train",
    val: str = "validation",
    test: str = "test",
    image: str = "image",
    label: str = "label",
    audio: str = "audio",
    text: str = "text",
    objects: str = "objects",
    mask: str = "",
    classes: tuple[str, ...] = (),
    shift: int = 0,
) -> Source:
    """A data set of TensorFlow Datasets, such as tfds('mnist') or tfds('cifar10:3.0.2').

    What is in a picture comes in place of a label: boxes, where the data has some, as
    tfds('coco/2017', val='', test='validation'), whose test split has no annotations, or a mask that is named, as
    tfds('oxford_iiit_pet', mask='segmentation_mask', classes=('pet', 'background', 'border'), shift=-1).

    Args:
        name: Its name, with a configuration and a version where wanted; or the folder in which it lies prepared.
        data_dir: Where it is prepared, or is to be; by default TFDS's own folder.
        train: Its split to train on, in TFDS's notation, such as `train[:80%]`.
        val: Its split to choose the best epoch on; carved out of `train` where it is empty, or the default is missing.
        test: Its split to test on; as `val`.
        image: The feature with the picture; left out where the data has none of this name.
        label: The feature with the class, or with a sequence of classes.
        audio: The feature with the sound, as `image`.
        text: The feature with the text, as `image`.
        objects: The feature with boxes and their classes, as `image`; empty where the label is wanted all the same.
            Crowds, groups and what is difficult are neither learned nor scored.
        mask: The feature with a mask, whose values are classes; 255 is untold.
        classes: Names of the values of a mask, where the data has none.
        shift: Is added to the values of a mask, such as -1 where they count from 1.

    Raises:
        UserError: There is no such data set, split or feature, or it cannot be downloaded.
    """
    builder = _open_builder(name, data_dir)
    features, known = builder.info.features, builder.info.splits
    said = {"image": image, "audio": audio, "text": text}
    columns = {column: feature for column, feature in said.items() if feature in features}
    boxes = "" if mask or (objects == "objects" and not BoxFeature.is_box_feature(features, objects)) else objects
    own = [feature for column, feature in said.items() if feature not in ("", column)]
    for wanted in (mask or boxes or label, *own):
        if wanted not in features:
            todo = did_you_mean(wanted, features)
            raise UserError(f"{name} has no such feature", got=wanted, expected=sorted(features), hint=todo)
    if not columns:
        todo = "name one by image=, audio= or text="
        raise UserError(f"{name} has no feature of a modality", got=sorted(features), expected=list(said), hint=todo)
    if "audio" in columns and not features[audio].sample_rate:
        raise UserError("this sound has no sample rate", got=f"{name}, {audio}", hint="make a table of its files")
    optional = {"val": "validation", "test": "test"}
    named = {"train": train, "val": val, "test": test}
    parts = {part: split for part, split in named.items() if split and (split in known or split != optional.get(part))}
    sizes = {part: _get_split_size(name, known, split) for part, split in parts.items()}
    target, labels, made = _select_target_column(features, label, boxes, mask, classes, shift)
    contents = {
        column: (feature, functools.partial(_encode_content, feature=features[feature]))
        for column, feature in columns.items()
    }
    full = builder.info.full_name.replace("/", "_")
    return TfdsSource(full, labels, sizes, (), builder, parts, contents | {target: made})


def _select_target_column(
    features: Any, label: str, boxes: str, mask: str, classes: tuple[str, ...], shift: int
) -> tuple[str, tuple[str, ...], Column]:
    """The column that is learned, its classes, and how it is made."""
    if mask:
        return (
            "mask",
            get_mask_class_names(mask, features[mask], classes),
            (mask, functools.partial(shift_mask, shift=shift)),
        )
    if boxes:
        if not BoxFeature.is_box_feature(features, boxes):
            raise UserError(
                "this feature has no boxes with classes", got=boxes, expected="a sequence of bbox and label"
            )
        found = BoxFeature(boxes, features[boxes])
        return "objects", found.names, (boxes, found.format_column)
    one = getattr(features[label], "feature", features[label])  # of a sequence
    labels = tuple(getattr(one, "names", None) or ())
    names = tf.constant(labels, tf.string)
    return "label", labels, (label, functools.partial(_format_label, names=names))


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a version of a data set as TFDS prepares it."""
    return (folder / "dataset_info.json").is_file()


def _open_builder(name: str, data_dir: str) -> Any:
    import tensorflow_datasets

    try:
        if is_prepared(Path(name).expanduser()):
            return tensorflow_datasets.builder_from_directory(Path(name).expanduser())
        builder = tensorflow_datasets.builder(name, data_dir=data_dir or None)
        builder.download_and_prepare()
    except tensorflow_datasets.core.DatasetNotFoundError:
        near = did_you_mean(name, tensorflow_datasets.list_builders())
        todo = near or "data_dir= names a folder where it lies prepared"
        raise UserError("TFDS has no such data set", got=name, hint=todo) from None
    except Exception as error:
        # TFDS raises types of its own, of its downloader and of its builders alike.
        todo = "is the name right, and this machine online? data_dir= names a folder where it lies prepared"
        reason = first_line(error, 300)
        raise UserError("TFDS cannot give this data set", got=f"{name} ({reason})", hint=todo) from None
    return builder


def _get_split_size(name: str, known: Any, split: str) -> int:
    try:
        size = known[split].num_examples
    except (KeyError, ValueError):
        size = 0
    if size <= 0:
        allowed = f"{', '.join(sorted(known))}, or a part of one such as train[:80%]"
        raise UserError(f"{name} has no such split, or it is empty", got=split, expected=allowed)
    return size


def _has_type(feature: Any, type_name: str) -> bool:
    """Whether a feature is of a class of `tfds.features`; that package is not imported for it."""
    return any(base.__name__ == type_name for base in type(feature).__mro__)


def _encode_content(value: tf.Tensor, feature: Any) -> tf.Tensor:
    """What a modality decodes: bytes as they are stored, or pixels; samples of a sound become a WAV file's bytes."""
    if not _has_type(feature, "Audio"):
        return value
    # Whole numbers are those of 16 bits, which come out as they went in.
    waves = value if value.dtype.is_floating else tf.cast(value, tf.float32) / 2**15
    waves = waves if waves.shape.rank == 2 else waves[:, None]
    return tf.audio.encode_wav(tf.cast(waves, tf.float32), feature.sample_rate)


def _format_label(value: tf.Tensor, names: tf.Tensor) -> tf.Tensor:
    """A class's number or name, or a sequence of them, as one text."""
    if value.dtype != tf.string:
        # TFDS gives the class -1 to samples whose class is not published.
        value = tf.gather(tf.concat([[""], names], 0), value + 1) if len(names) else tf.strings.as_string(value)
    return value if value.shape.rank == 0 else tf.strings.reduce_join(value, separator=LABEL_SEPARATOR)
