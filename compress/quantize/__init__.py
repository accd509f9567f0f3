"""Quantization: what fewer bits do to a network, before any runtime is asked."""
