"""Projects that use the engine: `famulus init` writes one, `famulus upgrade` renews it."""
