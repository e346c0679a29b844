"""`faust -A app dev`: a broker, a worker, and the worker again whenever a file is saved."""
