"""Letters read, tried, sent back."""
