"""`faust -A app explain`: where an event is, why, and what gets it on."""
