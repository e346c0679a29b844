"""Loading of settings from files, environment and command line, with references and origins."""
