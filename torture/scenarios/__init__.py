"""What is hurt in each scenario: the faults of a subject, and the legs in which they are dealt."""
