"""The command-line face: one file per command, registered by being imported."""
