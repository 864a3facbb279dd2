"""Pure functions on arrays, tensors and graphs: boxes, masks, geometry, images, audio, tf.data and LiteRT files."""
