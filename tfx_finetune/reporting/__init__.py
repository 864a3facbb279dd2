"""What a run found out, for people: the steps behind `report.py`."""
