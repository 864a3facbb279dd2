"""What is the same, and what is nearly the same, of pictures and texts."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.helpers.assets import asset
from tfx_finetune.data.duplicates import find_near_duplicate_pairs, group_equal, group_pairs
from tfx_finetune.data.fingerprints import THUMBNAIL_SIDE, SampleStatistics, normalize_words
from tfx_finetune.datasets.samples.tux_stamps import tux_stamps
from tfx_finetune.ops.ecc import ecc_similarity


def of_pictures(pictures):
    """Looks of pictures, no two of which have one content."""
    thumbnails = np.stack(
        [np.asarray(p.convert("RGB").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.BILINEAR)) for p in pictures]
    )
    return SampleStatistics(np.array([str(at) for at in range(len(pictures))], object), thumbnails, (), {})


def of_texts(*texts):
    """Looks of texts."""
    plain = tuple(map(normalize_words, texts))
    return SampleStatistics(np.array(plain, object), None, plain, {})


def compressed(picture):
    """The same picture as a JPEG of low quality."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=40)
    return Image.open(file)


CHANGES = {
    "resize": lambda p: p.resize((p.width // 2, p.height // 2)),
    "compress": compressed,
    "crop": lambda p: p.crop((p.width // 30, p.height // 25, p.width - p.width // 30, p.height - p.height // 40)),
    "brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.2),
}


@pytest.fixture(scope="module")
def stamps():
    """Sixty stamps over white."""
    asset("tux-stamps")
    rows = tux_stamps().parts["all"]["image"][::13]
    found = []
    for path in rows:
        stamp = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", stamp.size, "white")
        white.alpha_composite(stamp)
        found.append(white.convert("RGB"))
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(stamps, change):
    """At least nine of ten, each with the picture that it was made of."""
    count = len(stamps)
    copies = [CHANGES[change](stamp) for stamp in stamps[:30]]
    found = {(i, j) for i, j, _ in find_near_duplicate_pairs(of_pictures(stamps + copies), 0)}
    planted = {(at, count + at) for at in range(30)}
    assert len(found & planted) >= 27
    assert len(found - planted) <= 5


def test_a_moved_and_stretched_picture_is_the_same():
    """A smooth picture, and the same one seen through a window: aligned they are equal, as they lie they are not."""
    y, x = np.mgrid[0:THUMBNAIL_SIDE, 0:THUMBNAIL_SIDE] / THUMBNAIL_SIDE

    def seen(x, y):
        return 127 + 60 * np.sin(15 * x + 1) * np.cos(13 * y) + 50 * np.sin(8 * x * y + 2)

    first = seen(x, y)[None, ..., None].astype(np.uint8)
    second = seen(0.92 * x + 0.05, 0.95 * y + 0.02)[None, ..., None].astype(np.uint8)
    a, b = first.ravel() - first.mean(), second.ravel() - second.mean()
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) < 0.97
    assert ecc_similarity(first, second)[0] > 0.995
    assert ecc_similarity(first, 255 - first)[0] < 0.5
    assert ecc_similarity(first[:0], second[:0]).shape == (0,)


def test_flat_pictures_are_like_nothing():
    """White is no near copy of black, and a lone picture has no neighbour."""
    flat = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black", "grey")]
    assert find_near_duplicate_pairs(of_pictures(flat), 0) == []
    assert find_near_duplicate_pairs(of_pictures(flat[:1]), 0) == []


def test_reworded_texts():
    """Case and marks make no difference at all, one word of many little, other words all."""
    long = "the quick brown fox jumps over the lazy dog while seven wizards quietly watch from behind the old barn"
    looks = of_texts(long, long.replace("seven", "eight"), "nothing of this is said anywhere else", long + " door")
    found = {(i, j): score for i, j, score in find_near_duplicate_pairs(looks, 0.7)}
    assert set(found) == {(0, 1), (0, 3), (1, 3)}
    # One piece of five characters a place, 98 of them; 9 places see one of the five letters of the word.
    assert found[0, 3] == pytest.approx((len(long) - 4) / (len(long) + 1), abs=0.02)
    assert normalize_words("Hello,  WORLD!") == normalize_words("hello world")
    assert normalize_words("!?") == "!?"


def test_groups_are_connected_pairs():
    """0-1 and 1-3 make one group; an empty key equals none."""
    assert group_pairs(5, [(0, 1), (1, 3)]).tolist() == [0, 0, 1, 0, 2]
    assert group_pairs(2, []).tolist() == [0, 1]
    assert group_equal(["a", "", "b", "a", ""]) == [[0, 3]]
