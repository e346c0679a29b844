"""The views that answer JSON."""
