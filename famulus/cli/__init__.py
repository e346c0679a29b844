"""Commands of `faust -A app`. Each is a module, or a package with a module `command`."""
