"""The example's demo: `make run` has real orders (TPC-H) go through a real worker on a real Kafka."""
