"""Component `resolve`."""
