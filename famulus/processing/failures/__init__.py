"""Retries and circuit breakers: the reaction to a failed attempt of a handler."""
