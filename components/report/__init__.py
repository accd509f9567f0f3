"""Component `report`."""
