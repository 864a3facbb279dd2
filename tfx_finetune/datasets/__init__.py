"""From a source of samples to tf.data batches."""
