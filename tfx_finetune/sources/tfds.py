"""TensorFlow Datasets: any name and version."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfx_finetune.contracts import SOURCES, Source
from tfx_finetune.core.errors import UserError


@dataclass(frozen=True)
class Builder:
    """A `Source` that reads a prepared TFDS data set."""

    name: str
    labels: tuple[str, ...]
    sizes: dict[str, int]
    paths: tuple[str, ...]
    builder: Any
    parts: dict[str, str]
    image: str
    label: str

    def read(self, part: str) -> tf.data.Dataset:
        """Returns the samples of a part, in the order in which they are stored."""
        import tensorflow_datasets as tfds

        split = self.parts[part]
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        decoders = {self.image: tfds.decode.SkipDecoding()}
        ds = self.builder.as_dataset(split=split, decoders=decoders, read_config=config, shuffle_files=False)
        names = tf.constant(self.labels)

        def sample(index: tf.Tensor, row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            value = row[self.label]
            label = value if value.dtype == tf.string else names[value]
            return {
                "image": row[self.image],
                "label": label,
                "file": tf.strings.join([f"{self.name}/{split}/", tf.strings.as_string(index)]),
            }

        return ds.enumerate().map(sample)


@SOURCES.register
def tfds(
    name: str,
    data_dir: str = "",
    train: str = "train",
    val: str = "",
    test: str = "test",
    image: str = "image",
    label: str = "label",
) -> Source:
    """A data set of TensorFlow Datasets, such as tfds('mnist') or tfds('cifar10:3.0.2').

    Args:
        name: Its name, with a configuration and a version where wanted.
        data_dir: Where it is prepared, or is to be; by default TFDS's own folder.
        train: Its split to train on, in TFDS's notation, such as `train[:80%]`.
        val: Its split to choose the best epoch on; empty: carved out of `train`.
        test: Its split to test on; empty, or not there: carved out of `train`.
        image: The feature with the picture.
        label: The feature with the class.

    Raises:
        UserError: There is no such data set, split or feature, or it cannot be downloaded.
    """
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir or None)
        builder.download_and_prepare()
    except Exception as error:
        # TFDS raises types of its own, of its downloader and of its builders alike.
        todo = "is the name right, and this machine online? data_dir= names a folder where it lies prepared"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError("TFDS cannot give this data set", received=f"{name} ({reason})", todo=todo) from None
    features = builder.info.features
    for wanted in (image, label):
        if wanted not in features:
            raise UserError(f"{name} has no such feature", received=wanted, allowed=sorted(features))
    known = builder.info.splits
    parts = {"train": train, "val": val, "test": test if test.partition("[")[0] in known else ""}
    parts = {part: split for part, split in parts.items() if split}
    for split in parts.values():
        if split.partition("[")[0] not in known:
            raise UserError(f"{name} has no such split", received=split, allowed=sorted(known))
    labels = tuple(getattr(features[label], "names", None) or ())
    sizes = {part: known[split].num_examples for part, split in parts.items()}
    return Builder(name.replace("/", "_"), labels, sizes, (), builder, parts, image, label)
