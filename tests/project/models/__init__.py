"""What happened: one file per topic, one class per event, named in the past tense."""
