"""Access to the cluster outside of the data path: clients, administration, groups, lag."""
