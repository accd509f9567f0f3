"""FAMILY (space) -> optuna sampler: how the next candidate is chosen."""
