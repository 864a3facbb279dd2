"""A run: validation of its options, its data, its model and its work folder."""
