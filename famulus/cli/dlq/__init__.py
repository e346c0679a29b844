"""`faust -A app dlq`: what failed for good, looked at, tried, sent back, dropped."""
