"""Random changes of training samples: one file an augment."""
