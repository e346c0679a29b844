"""A broker, a worker under control and a demo, for development and tests."""
