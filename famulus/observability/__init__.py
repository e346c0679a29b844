"""What can be seen of a worker and of its cluster."""
