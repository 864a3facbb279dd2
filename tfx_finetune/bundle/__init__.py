"""Bundles: exported files of a model with everything that prediction needs."""
