"""`faust -A app state`: export, import, verify, replay and restore state."""
