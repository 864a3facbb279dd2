"""Core without TensorFlow: configuration, specs, registries, errors, files, hardware."""
