"""Prediction server: TensorFlow Serving's REST protocol on FastAPI; the steps of the `serve` command."""
