"""Component `export`."""
