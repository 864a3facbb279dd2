"""Near-duplicates of images and texts."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.helpers.assets import fetch_asset
from tfx_finetune.data.duplicates import find_near_duplicate_pairs, group_equal, group_pairs
from tfx_finetune.data.fingerprints import THUMBNAIL_SIDE, SampleStatistics, normalize_words
from tfx_finetune.datasets.samples.tux_stamps import tux_stamps
from tfx_finetune.ops.ecc import ecc_similarity


def image_statistics(images):
    """Statistics of images with different content."""
    thumbnails = np.stack(
        [np.asarray(image.convert("RGB").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.BILINEAR)) for image in images]
    )
    return SampleStatistics(np.array([str(index) for index in range(len(images))], object), thumbnails, (), {})


def text_statistics(*texts):
    """Statistics of texts."""
    normalized = tuple(map(normalize_words, texts))
    return SampleStatistics(np.array(normalized, object), None, normalized, {})


def compress(image):
    """The image as a JPEG file of low quality."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file)


CHANGES = {
    "resize": lambda image: image.resize((image.width // 2, image.height // 2)),
    "compress": compress,
    "crop": lambda image: image.crop(
        (image.width // 30, image.height // 25, image.width - image.width // 30, image.height - image.height // 40)
    ),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
}


@pytest.fixture(scope="module")
def stamps():
    """Sixty stamps on a white background."""
    fetch_asset("tux-stamps")
    images = []
    for path in tux_stamps().parts["all"]["image"][::13]:
        stamp = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", stamp.size, "white")
        white.alpha_composite(stamp)
        images.append(white.convert("RGB"))
    return images


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_near_duplicates(stamps, change):
    """At least 27 of 30 changed copies are paired with their original, with at most five false pairs."""
    count = len(stamps)
    copies = [CHANGES[change](stamp) for stamp in stamps[:30]]
    pairs = {(i, j) for i, j, _ in find_near_duplicate_pairs(image_statistics(stamps + copies), 0)}
    planted = {(index, count + index) for index in range(30)}
    assert len(pairs & planted) >= 27
    assert len(pairs - planted) <= 5


def test_alignment_compensates_shift_and_scale():
    """A shifted and stretched image correlates with the original after alignment, but not before."""
    y, x = np.mgrid[0:THUMBNAIL_SIDE, 0:THUMBNAIL_SIDE] / THUMBNAIL_SIDE

    def pattern(x, y):
        return 127 + 60 * np.sin(15 * x + 1) * np.cos(13 * y) + 50 * np.sin(8 * x * y + 2)

    first = pattern(x, y)[None, ..., None].astype(np.uint8)
    second = pattern(0.92 * x + 0.05, 0.95 * y + 0.02)[None, ..., None].astype(np.uint8)
    a, b = first.ravel() - first.mean(), second.ravel() - second.mean()
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) < 0.97
    assert ecc_similarity(first, second)[0] > 0.995
    assert ecc_similarity(first, 255 - first)[0] < 0.5
    assert ecc_similarity(first[:0], second[:0]).shape == (0,)


def test_images_of_one_color_have_no_near_duplicates():
    """A white image is no near-duplicate of a black one, and a single image has no neighbors."""
    images = [Image.new("RGB", (40, 40), color) for color in ("white", "black", "gray")]
    assert find_near_duplicate_pairs(image_statistics(images), 0) == []
    assert find_near_duplicate_pairs(image_statistics(images[:1]), 0) == []


def test_reworded_texts_are_near_duplicates():
    """Case and punctuation do not change the similarity; one of many words lowers it slightly."""
    text = "the quick brown fox jumps over the lazy dog while seven wizards quietly watch from behind the old barn"
    statistics = text_statistics(text, text.replace("seven", "eight"), "an entirely different sentence", text + " door")
    similarities = {(i, j): score for i, j, score in find_near_duplicate_pairs(statistics, 0.7)}
    assert set(similarities) == {(0, 1), (0, 3), (1, 3)}
    # The text has 98 shingles, all of which are shingles of the longer text.
    assert similarities[0, 3] == pytest.approx((len(text) - 4) / (len(text) + 1), abs=0.02)
    assert normalize_words("Hello,  WORLD!") == normalize_words("hello world")
    assert normalize_words("!?") == "!?"


def test_connected_pairs_form_groups():
    """0-1 and 1-3 form one group; empty keys are never equal."""
    assert group_pairs(5, [(0, 1), (1, 3)]).tolist() == [0, 0, 1, 0, 2]
    assert group_pairs(2, []).tolist() == [0, 1]
    assert group_equal(["a", "", "b", "a", ""]) == [[0, 3]]
