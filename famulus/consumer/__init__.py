"""Group membership, assignment, fetching and commits of one worker, in place of Faust's own."""
