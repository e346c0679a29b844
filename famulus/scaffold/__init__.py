"""Projects that use the engine: `famulus init` writes one, `famulus upgrade` brings it to a later version."""
