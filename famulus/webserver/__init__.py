"""The door of the web face: who comes in, by which token, for how long."""
