"""The `tune` command: hyper-parameter search and the learning rate range test."""
