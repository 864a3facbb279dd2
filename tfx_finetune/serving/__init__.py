"""A model that answers requests: the steps behind `serve.py`."""
