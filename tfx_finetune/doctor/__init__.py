"""The `doctor` command: checks that this environment can train."""
