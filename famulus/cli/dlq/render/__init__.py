"""Rendering of dead letters, as text and as JSON."""
