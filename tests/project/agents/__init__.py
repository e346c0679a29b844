"""What to do about it: one file per topic, with the topic's agent, its tables and its handlers."""
