"""The life of a batch: from a fetch to a finished offset. Start with pipeline.py."""
