"""Component `sensitivity`."""
