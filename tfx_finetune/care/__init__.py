"""What is wrong with a data set: the steps behind `data.py`."""
