"""Backbones, necks, fusions and adapters, and the model that is built from them."""
