"""Pruning: what channels are worth, how much each layer loses, and when."""
