"""What to do when a handler fails: again after a wait, for good, or nothing until what it needs is back."""
