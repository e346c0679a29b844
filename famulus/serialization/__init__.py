"""Bytes <-> events: what travels in a record, and what it means."""
