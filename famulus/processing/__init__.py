"""Processing of records, from a fetch to a finished offset. Start with pipeline.py."""
