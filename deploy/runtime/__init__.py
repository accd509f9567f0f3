"""Runtimes beyond torch. Each module registers one piece of the family `runtime`."""
