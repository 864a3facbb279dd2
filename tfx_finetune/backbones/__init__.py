"""Pretrained towers, each with the weight card that says how to feed it."""
