"""Source of TensorFlow Datasets of any name and version."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tfx_finetune.core.errors import UserError, did_you_mean, first_line
from tfx_finetune.datasets.sources.tfds_annotations import BoxFeature, get_mask_class_names, has_type, shift_mask
from tfx_finetune.types.components import LABEL_SEPARATOR, SOURCES, Source


class Column(NamedTuple):
    """Column of a sample.

    Attributes:
        feature: Name of the TFDS feature.
        convert: Converts the value of the feature to the value of the column.
    """

    feature: str
    convert: Callable[[Any], tf.Tensor]


@dataclass(frozen=True)
class TfdsSource:
    """A `Source` of a prepared TFDS data set.

    Attributes:
        name: Name and version of the data.
        labels: Class names in order; empty if they are to be collected from the samples.
        sizes: Number of samples of each part.
        paths: Empty, because no column holds paths.
        builder: TFDS builder of the data set.
        parts: TFDS split of each part, such as {"train": "train[:80%]"}.
        columns: Columns of a sample by name.
    """

    name: str
    labels: tuple[str, ...]
    sizes: dict[str, int]
    paths: tuple[str, ...]
    builder: Any
    parts: dict[str, str]
    columns: Mapping[str, Column]

    def read(self, part: str) -> tf.data.Dataset:
        """Return the samples of a part, in the order in which they are stored."""
        import tensorflow_datasets as tfds

        split = self.parts[part]
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        # The modality decodes images; features that are not a column are not read.
        used_features = {column.feature: True for column in self.columns.values()}
        features = self.builder.info.features
        raw = {name: tfds.decode.SkipDecoding() for name in used_features if has_type(features[name], "Image")}
        decoders = tfds.decode.PartialDecoding(used_features, decoders=raw)
        dataset = self.builder.as_dataset(split=split, decoders=decoders, read_config=config, shuffle_files=False)

        def make_sample(index: tf.Tensor, row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            file = tf.strings.join([f"{self.name}/{split}/", tf.strings.as_string(index)])
            return {name: column.convert(row[column.feature]) for name, column in self.columns.items()} | {"file": file}

        return dataset.enumerate().map(make_sample)


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
    """Read a data set of TensorFlow Datasets, such as tfds('mnist') or tfds('cifar10:3.0.2').

    If the data has boxes, they are read instead of the label, as in tfds('coco/2017', val='', test='validation'), whose
    test split has no annotations. A mask is read if it is named, as in
    tfds('oxford_iiit_pet', mask='segmentation_mask', classes=('pet', 'background', 'border'), shift=-1).

    Args:
        name: Name of the data set, with an optional configuration and version; or the folder of a prepared data set.
        data_dir: Folder of prepared data sets. Default: that of TFDS.
        train: Training split in the notation of TFDS, such as `train[:80%]`. Default `train`.
        val: Validation split. Empty: cut from the training split. Default: `validation` if the data has it, else cut.
        test: Test split. Empty: cut from the training split. Default: `test` if the data has it, else cut.
        image: Feature of the images. Default `image`; ignored if the data has no such feature.
        label: Feature of the class, or of a sequence of classes. Default `label`.
        audio: Feature of the waveforms. Default `audio`; ignored if the data has no such feature.
        text: Feature of the texts. Default `text`; ignored if the data has no such feature.
        objects: Feature of boxes with classes. Empty: read the label although the data has boxes. Default `objects`;
            ignored if the data has no such feature. Crowds and difficult objects are neither trained nor scored.
        mask: Feature of a mask whose values are class indices. The value 255 is ignored.
        classes: Class names of the mask values, if the feature has none.
        shift: int. Added to the mask values, such as -1 if they count from 1. Default 0.

    Raises:
        UserError: If the data set, a split or a feature does not exist, or the data cannot be downloaded.
    """
    builder = _open_builder(name, data_dir)
    features, existing_splits = builder.info.features, builder.info.splits
    content_options = {"image": image, "audio": audio, "text": text}
    content_features = {column: feature for column, feature in content_options.items() if feature in features}
    has_default_boxes = objects != "objects" or BoxFeature.is_box_feature(features, objects)
    boxes = objects if has_default_boxes and not mask else ""
    changed_options = [feature for column, feature in content_options.items() if feature not in ("", column)]
    for feature in (mask or boxes or label, *changed_options):
        if feature not in features:
            hint = did_you_mean(feature, features)
            raise UserError(f"{name} has no such feature", got=feature, expected=sorted(features), hint=hint)
    if not content_features:
        hint = "name a feature by image=, audio= or text="
        got = ", ".join(sorted(features))
        raise UserError(f"{name} has no feature of a modality", got=got, expected=list(content_options), hint=hint)
    if "audio" in content_features and not features[audio].sample_rate:
        hint = "make a table of the audio files"
        raise UserError("The audio feature has no sample rate", got=f"{name}, {audio}", hint=hint)
    default_splits = {"val": "validation", "test": "test"}
    split_options = {"train": train, "val": val, "test": test}
    parts = {
        part: split
        for part, split in split_options.items()
        if split and (split in existing_splits or split != default_splits.get(part))
    }
    sizes = {part: _get_split_size(name, existing_splits, split) for part, split in parts.items()}
    if mask:
        labels = get_mask_class_names(mask, features[mask], classes)
        target = {"mask": Column(mask, functools.partial(shift_mask, shift=shift))}
    elif boxes:
        labels, target = _make_objects_column(features, boxes)
    else:
        labels, target = _make_label_column(features, label)
    contents = {
        column: Column(feature, functools.partial(_encode_content, feature=features[feature]))
        for column, feature in content_features.items()
    }
    full_name = builder.info.full_name.replace("/", "_")
    return TfdsSource(full_name, labels, sizes, (), builder, parts, contents | target)


def _make_objects_column(features: Any, name: str) -> tuple[tuple[str, ...], dict[str, Column]]:
    """Return the class names and the column `objects`."""
    if not BoxFeature.is_box_feature(features, name):
        expected = "a sequence of bbox and label"
        raise UserError("The feature has no boxes with classes", got=name, expected=expected)
    feature = BoxFeature(name, features[name])
    return feature.names, {"objects": Column(name, feature.format_column)}


def _make_label_column(features: Any, name: str) -> tuple[tuple[str, ...], dict[str, Column]]:
    """Return the class names and the column `label`."""
    class_feature = getattr(features[name], "feature", features[name])  # of a sequence
    labels = tuple(getattr(class_feature, "names", None) or ())
    return labels, {"label": Column(name, functools.partial(_format_label, names=tf.constant(labels, tf.string)))}


def is_prepared(folder: Path) -> bool:
    """Return True if a folder holds a version of a data set that TFDS has prepared."""
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
        hint = near or "name the folder of a prepared data set by data_dir="
        raise UserError("TFDS has no such data set", got=name, hint=hint) from None
    except Exception as error:
        # The downloader and the builders of TFDS raise many types of errors.
        hint = "check the name and the network connection, or name the folder of a prepared data set by data_dir="
        reason = first_line(error, 300)
        raise UserError("TFDS cannot open the data set", got=f"{name} ({reason})", hint=hint) from None
    return builder


def _get_split_size(name: str, existing_splits: Any, split: str) -> int:
    try:
        size = existing_splits[split].num_examples
    except (KeyError, ValueError):
        size = 0
    if size <= 0:
        expected = f"{', '.join(sorted(existing_splits))}, or a part of one such as train[:80%]"
        raise UserError(f"{name} has no such split, or the split is empty", got=split, expected=expected)
    return size


def _encode_content(value: tf.Tensor, feature: Any) -> tf.Tensor:
    """Return content as its modality decodes it: stored bytes or pixels; a waveform becomes a WAV file."""
    if not has_type(feature, "Audio"):
        return value
    # Integers are 16-bit samples, which the WAV file stores unchanged.
    waveform = value if value.dtype.is_floating else tf.cast(value, tf.float32) / 2**15
    waveform = waveform if waveform.shape.rank == 2 else waveform[:, None]
    return tf.audio.encode_wav(tf.cast(waveform, tf.float32), feature.sample_rate)


def _format_label(value: tf.Tensor, names: tf.Tensor) -> tf.Tensor:
    """Convert a class number or name, or a sequence of them, to one text."""
    if value.dtype != tf.string:
        # TFDS gives the class -1 to samples whose class is not published.
        value = tf.gather(tf.concat([[""], names], 0), value + 1) if len(names) else tf.strings.as_string(value)
    return value if value.shape.rank == 0 else tf.strings.reduce_join(value, separator=LABEL_SEPARATOR)
