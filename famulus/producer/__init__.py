"""The way out: events and records that leave."""
