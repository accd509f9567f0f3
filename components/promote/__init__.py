"""Component `promote`."""
