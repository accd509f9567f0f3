"""Component `verdict`."""
