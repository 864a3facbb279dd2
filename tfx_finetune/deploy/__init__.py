"""Exported files: writing, verification and selection."""
