"""Kinds of evidence, and how each becomes model input: one file a modality."""
