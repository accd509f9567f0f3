"""Training: one loop that no method edits, and the presets, objectives and scores around it."""
