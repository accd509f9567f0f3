"""Layers that conversions put into a network."""
