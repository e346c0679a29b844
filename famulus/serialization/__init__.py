"""Serialization: convert between bytes and events, and read and write record headers."""
