"""`faust -A app dlq`: list, show, dry-run, redrive and drop dead letters."""
