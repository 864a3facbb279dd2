"""Pure functions on arrays, tensors and graphs: boxes, masks, geometry, audio, tf.data, LiteRT."""
