"""Dead letters: their format, their topics, and how they return to their group."""
