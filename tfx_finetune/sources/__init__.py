"""Where samples come from: one file a source, registered by being imported here."""
