"""Reading, dry runs and redrives of dead letters."""
