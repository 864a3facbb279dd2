"""Data pipeline: sources, survey, splits, class names, sampling, and tf.data batches of inputs and targets."""
