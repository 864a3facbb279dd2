"""What a phase of training is made of: the steps behind `phases.py`."""
