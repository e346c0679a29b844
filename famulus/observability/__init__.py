"""Observability of a worker: logs, metrics, traces, hot keys and consumption events."""
