"""The `serve` command: predictions over HTTP."""
