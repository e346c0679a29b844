"""Where an event is, why, and what gets it on."""
