"""The bundle of a run, opened: predictions, drawings and COCO results."""
