"""TFDS builders of small data sets, which the tests prepare."""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Noise images of three classes: 40 training images in version 1.0.0, the default, and 20 in version 2.0.0."""

    VERSION = tfds.core.Version("1.0.0")
    SUPPORTED_VERSIONS: ClassVar = [tfds.core.Version("2.0.0")]

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["square", "circle", "hexagon"]),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["big", "red"])),
            "count": np.int64,
            "caption": tfds.features.Text(),
            "pixels": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8),
            "noise": tfds.features.Audio(sample_rate=8000),
            "mask": tfds.features.Image(shape=(None, None, 1)),
            "classes": tfds.features.LabeledImage(labels=["nothing", "something"], shape=(None, None, 1)),
            "things": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                    "is_crowd": np.bool_,
                }
            ),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        train = 40 if str(self.version) == "1.0.0" else 20
        return {
            "train": self._generate_examples(0, train),
            "validation": self._generate_examples(100, 6),
            "test": self._generate_examples(200, 9),
            "unlabeled": self._generate_examples(300, 3),
        }

    def _generate_examples(self, first, count):
        for number in range(first, first + count):
            pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
            yield (
                number,
                {
                    "image": pixels,
                    "label": -1 if first == 300 else number % 3,
                    "tags": [["big"], ["big", "red"], []][number % 3],
                    "count": number % 3,
                    "caption": f"shape {number % 3}",
                    "pixels": pixels[:4, :4, :1],
                    "noise": np.array([-32768, -1, 0, 1, 32767]),
                    "mask": np.full((6, 8, 1), 1 + number % 3, np.uint8),
                    "classes": np.full((6, 8, 1), number % 2, np.uint8),
                    "things": [
                        {"bbox": tfds.features.BBox(0.25, 0.1, 0.75, 0.6), "label": "dog", "is_crowd": number % 2},
                        {"bbox": tfds.features.BBox(0.5, 0.5, 0.5, 0.6), "label": "cat", "is_crowd": False},
                    ][: number % 3],
                },
            )


class Scenes(tfds.core.GeneratorBasedBuilder):
    """Two images with a label and one difficult object each; the names of the features are those of VOC."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        fields = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=["big  cat", "dog"]),
            "is_difficult": np.bool_,
        }
        features = {
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "label": tfds.features.ClassLabel(names=["indoor", "outdoor"]),
            "objects": tfds.features.Sequence(fields),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        item = {"bbox": tfds.features.BBox(0.2, 0.1, 0.4, 0.3), "label": 0, "is_difficult": True}
        for number in range(2):
            yield number, {"image": np.full((4, 4, 3), number, np.uint8), "label": 1, "objects": [item]}


def prepare(data_dir):
    """Prepare both versions and return the folder."""
    for version in ("1.0.0", "2.0.0"):
        Shapes(data_dir=data_dir, version=version).download_and_prepare()
    return data_dir
