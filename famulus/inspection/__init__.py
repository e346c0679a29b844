"""Inspection of events, dead letters and state from the logs, for commands and console."""
