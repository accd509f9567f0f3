"""Component `cascade`."""
