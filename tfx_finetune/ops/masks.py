"""Layer 1: masks, PNG files whose grey values or palette indices are classes: read, examined, laid on the square."""

import functools
import struct
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfx_finetune.types.localization import IGNORE_INDEX, Letterbox

_MAGIC = b"\x89PNG\r\n\x1a\n"
_BYTES = [bytes([value]) for value in range(256)]
# A checksum of CRC-32 is linear: a header whose kind is 0 (grey) and not 3 (palette) has one that differs by this.
_CRC_DIFFERENCE = struct.pack(">I", zlib.crc32(bytes(13) + b"\3" + bytes(3)) ^ zlib.crc32(bytes(17)))
_GRAY, _PALETTE = 0, 3
_COLOR_TYPES = {2: "colours", 4: "grey with transparency", 6: "colours with transparency"}


class PngHeader(NamedTuple):
    """What a PNG file says first: its size in pixels, bits of a value, and kind (0 grey, 3 palette)."""

    width: int
    height: int
    bit_depth: int
    color_type: int


def read_png_header(raw: bytes) -> PngHeader:
    """The header of a mask.

    Raises:
        ValueError: It is no PNG file, or one of colours; the message says so in a few words.
    """
    if not raw.startswith(_MAGIC) or len(raw) < 33:
        raise ValueError("the mask is not a PNG file")
    found = PngHeader(*struct.unpack(">IIBB", raw[16:26]))
    if found.color_type not in (_GRAY, _PALETTE):
        raise ValueError(
            f"the mask has {_COLOR_TYPES.get(found.color_type, 'values of an unknown kind')}, not grey or a palette"
        )
    return found


def read_mask_size(raw: bytes) -> tuple[int, int]:
    """Width and height of a mask in pixels; see `header` for what it raises."""
    return read_png_header(raw)[:2]


def examine(raw: bytes) -> tuple[str, str, tuple[str, ...]]:
    """The values in a mask that tell a class, a line each, and why it cannot be used; see `Places.examine`."""
    try:
        read_png_header(raw)
        values = np.flatnonzero(np.bincount(_decode_numpy(raw).ravel(), minlength=IGNORE_INDEX))
    except ValueError as error:
        return "", str(error), ()
    except tf.errors.InvalidArgumentError:
        return "", "truncated or corrupt mask", ()
    if values.max() > IGNORE_INDEX:
        return "", f"the mask has values above {IGNORE_INDEX}", ()
    told = values[values != IGNORE_INDEX]
    wrong = "" if len(told) else f"the mask is {IGNORE_INDEX} everywhere, which tells nothing"
    return "\n".join(map(str, told)), wrong, ()


def read(raw: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """A mask in the size of its picture, by the nearest of its pixels.

    Args:
        raw: Scalar string, a PNG file that `examine` has nothing against; empty where nothing is told.
        shape: Height and width, (2,).

    Returns:
        uint8 (height, width, 1).
    """
    untold = tf.cast(tf.fill(tf.concat([shape, [1]], 0), IGNORE_INDEX), tf.uint8)
    return tf.cond(
        tf.strings.length(raw) > 0, lambda: resize_mask(tf.cast(decode_values(raw), tf.uint8), shape), lambda: untold
    )


def resize_mask(mask: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """A decoded mask (height, width, 1) in another height and width, (2,), by the nearest of its pixels."""
    own = tf.shape(mask)[:2]
    rows, columns = ((2 * tf.range(shape[axis]) + 1) * own[axis] // (2 * shape[axis]) for axis in (0, 1))
    return tf.gather(tf.gather(mask, rows), columns, axis=1)


def letterbox_mask(mask: tf.Tensor, letterbox: Letterbox) -> tf.Tensor:
    """A mask as its picture lies in the prepared one: each pixel has the value at its centre, and 255 beside it.

    Args:
        mask: uint8 (height, width, 1).
        lay: How its picture lies.

    Returns:
        uint8 (side, side).
    """
    centres = tf.range(letterbox.side, dtype=tf.float32) + 0.5
    at = [tf.cast(tf.floor((centres - letterbox.offset[axis]) / letterbox.scale[axis]), tf.int32) for axis in (0, 1)]
    inside = [(place >= 0) & (place < tf.shape(mask)[axis]) for axis, place in enumerate(at)]
    rows, columns = (tf.clip_by_value(place, 0, tf.shape(mask)[axis] - 1) for axis, place in enumerate(at))
    found = tf.gather(tf.gather(mask[..., 0], rows), columns, axis=1)
    found = tf.where(inside[0][:, None] & inside[1][None, :], found, tf.constant(IGNORE_INDEX, tf.uint8))
    return tf.ensure_shape(found, (letterbox.side, letterbox.side))


def decode_values(raw: tf.Tensor) -> tf.Tensor:
    """What a PNG file stores of its pixels, grey values or palette indices of any depth: int32 (height, width, 1).

    TensorFlow gives the colours of a palette, and grey values of few bits as 0 to 255. So it is given a grey file of
    the same content, without the chunks between header and content (PNG specification, 3rd edition, sections 5 and 11).
    """
    crc = tf.bitwise.bitwise_xor(_read_bytes(raw, 29, 4), _read_bytes(tf.constant(_CRC_DIFFERENCE), 0, 4))
    grey = tf.strings.join(
        [tf.strings.substr(raw, 0, 25), _BYTES[_GRAY], tf.strings.substr(raw, 26, 3), _join_bytes(crc)]
    )
    start = tf.where(_read_bytes(raw, 25, 1)[0] == _PALETTE, grey, tf.strings.substr(raw, 0, 33))
    file = tf.strings.join([start, tf.strings.substr(raw, _find_pixel_data(raw), -1)])
    depth = tf.cast(_read_bytes(raw, 24, 1)[0], tf.int32)

    def shallow() -> tf.Tensor:
        greys = tf.cast(tf.io.decode_png(file, channels=1), tf.int32)
        most = tf.bitwise.left_shift(1, depth) - 1
        return greys * most // 255

    return tf.cond(depth > 8, lambda: tf.cast(tf.io.decode_png(file, 1, tf.uint16), tf.int32), shallow)


@functools.cache
def _get_traced_decode() -> tf.types.experimental.PolymorphicFunction:
    return tf.function(decode_values, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


def _decode_numpy(raw: bytes) -> np.ndarray:
    return _get_traced_decode()(tf.constant(raw)).numpy()


def _find_pixel_data(raw: tf.Tensor) -> tf.Tensor:
    """Where the first chunk of pixels begins, or the file ends."""
    end = tf.strings.length(raw)

    def other(at: tf.Tensor) -> tf.Tensor:
        return (at + 8 < end) & (tf.strings.substr(raw, at + 4, 4) != b"IDAT")

    def following(at: tf.Tensor) -> tf.Tensor:
        length = tf.cast(_read_bytes(raw, at, 4), tf.int32)
        return tf.minimum(at + 12 + tf.reduce_sum(length * [1 << 24, 1 << 16, 1 << 8, 1]), end)

    return tf.while_loop(other, lambda at: (following(at),), (tf.constant(33),))[0]


def _read_bytes(raw: tf.Tensor, offset: int | tf.Tensor, count: int) -> tf.Tensor:
    """Bytes as numbers, uint8 (count,)."""
    return tf.ensure_shape(tf.io.decode_raw(tf.strings.substr(raw, offset, count), tf.uint8), (count,))


def _join_bytes(numbers: tf.Tensor) -> tf.Tensor:
    """Numbers, uint8 (count,), as bytes."""
    return tf.strings.reduce_join(tf.gather(tf.constant(_BYTES), tf.cast(numbers, tf.int32)))
