"""Layer 0: configuration, specs, registries, errors, files, hardware. Imports no TensorFlow."""
