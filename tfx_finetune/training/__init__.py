"""Training of the phases of a run: data, optimizer, losses, checkpoints, and the order of languages."""
