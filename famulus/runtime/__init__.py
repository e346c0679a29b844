"""The process of a worker: its options, its start and end, what is watched while it runs."""
