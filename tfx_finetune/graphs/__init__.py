"""Layer 1: networks as graphs and files: cut, joined, folded, rewritten, converted."""
