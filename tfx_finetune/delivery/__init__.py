"""What is delivered, and whether it may be: the steps behind `verify.py` and `bundle.py`."""
