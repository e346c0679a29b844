"""A consumer group from outside of any worker: who is in it, what it has committed, how far it is behind."""
