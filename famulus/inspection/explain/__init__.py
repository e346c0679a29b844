"""Explanation of an event's state: where it is, why, and what can be done."""
