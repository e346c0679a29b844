"""Where settings come from: files, the environment, the command line; what they refer to; who said what."""
