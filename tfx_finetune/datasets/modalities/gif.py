"""Transparency of GIF (CompuServe GIF89a) in TensorFlow operations."""

import tensorflow as tf

_BYTES = [bytes([value]) for value in range(256)]
# Colour tables and extensions come first, so the first frame's control block is near the front.
_HEADER_BYTES = 4096


def composite_transparency(raw: tf.Tensor, background: tuple[int, int, int]) -> tf.Tensor:
    """Returns the GIF with its first frame's transparent colour made opaque and equal to `background`.

    TensorFlow's decoder paints transparent pixels black and does not say which they were. So the file itself is
    changed: the colour's entry in the colour table becomes the background, and the flag of transparency is taken away.

    Args:
        raw: Scalar string with a GIF.
        background: The colour to put behind it.
    """
    front = tf.io.decode_raw(tf.strings.substr(raw, 0, tf.minimum(_HEADER_BYTES, tf.strings.length(raw))), tf.uint8)
    values = tf.cast(front, tf.int32)
    control = _find_bytes(front, b"\x21\xf9\x04")
    transparent = (control >= 0) & (control + 18 < tf.shape(front)[0])

    def painted() -> tf.Tensor:
        index = values[control + 6]
        # A frame may bring a colour table of its own, behind its descriptor.
        local = (values[control + 8] == 0x2C) & (values[control + 17] >= 0x80)
        entry = tf.where(local, control + 18, 13) + 3 * index
        changed = tf.concat([[control + 3], entry + tf.range(3)], 0)
        content = tf.concat([[values[control + 3] & 0xFE], tf.constant(background)], 0)
        inside = changed < tf.shape(front)[0]
        changed, content = tf.boolean_mask(changed, inside), tf.boolean_mask(content, inside)
        painted = tf.tensor_scatter_nd_update(values, changed[:, None], content)
        rest = tf.strings.substr(raw, tf.shape(front)[0], tf.strings.length(raw) - tf.shape(front)[0])
        return tf.strings.join([tf.strings.reduce_join(tf.gather(tf.constant(_BYTES), painted)), rest])

    flagged = tf.cond(transparent, lambda: values[control + 3] & 1 == 1, lambda: False)
    return tf.cond(flagged, painted, lambda: raw)


def _find_bytes(data: tf.Tensor, pattern: bytes) -> tf.Tensor:
    """Position of the first occurrence of `pattern` in uint8 (n,), int32; -1 where there is none."""
    count = tf.maximum(tf.shape(data)[0] - len(pattern) + 1, 0)
    hits = tf.ones([count], tf.bool)
    for offset, value in enumerate(pattern):
        hits &= data[offset : offset + count] == value
    return tf.where(tf.reduce_any(hits), tf.argmax(tf.cast(hits, tf.uint8), output_type=tf.int32), -1)
