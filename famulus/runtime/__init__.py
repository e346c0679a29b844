"""The process of a worker: its options, its start and end, and checks while it runs."""
