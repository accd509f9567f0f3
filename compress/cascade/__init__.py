"""Across models: a small network answers what it is sure of and hands the rest to a large one."""
