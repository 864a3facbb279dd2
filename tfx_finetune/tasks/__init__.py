"""What a model predicts: head, loss, metrics and decoding from one factory, one file a task."""
