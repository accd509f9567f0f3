"""Component `prune`."""
