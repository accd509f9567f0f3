"""FAMILY (module, x_BCHW) -> Space: what may vary."""
