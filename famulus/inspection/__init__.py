"""What people ask of events and dead letters, answered from the logs, for the commands and the console alike."""
