"""Component `search`."""
