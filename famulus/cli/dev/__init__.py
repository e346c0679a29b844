"""`faust -A app dev`: a broker, and a worker that restarts whenever a file is saved."""
