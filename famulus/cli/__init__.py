"""The commands of `faust -A app`: one module, or one package with a module `command`, for each."""
