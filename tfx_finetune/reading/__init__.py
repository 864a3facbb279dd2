"""From a source to samples with labels, a split and an order: the steps behind `pipeline.py`."""
