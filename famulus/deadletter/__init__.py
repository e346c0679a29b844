"""What failed for good, and how it is kept."""
