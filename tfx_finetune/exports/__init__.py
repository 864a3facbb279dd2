"""Files that a trained model is written to, each with its reader."""
