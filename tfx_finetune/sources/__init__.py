"""Where samples come from: one file a source, registered by being imported here."""

from tfx_finetune.sources import folder, fortunes, idx, snownlp, spoken_digits, table, tfds, tux_stamps

__all__ = ["folder", "fortunes", "idx", "snownlp", "spoken_digits", "table", "tfds", "tux_stamps"]
