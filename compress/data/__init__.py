"""Data: tasks by name, where their files come from, how they are split and augmented."""
