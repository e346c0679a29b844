"""One worker process: what of Faust is replaced, which partitions it has, how it starts and ends."""
