"""Producing: send events and records to Kafka."""
