"""Experiments: their schema, how Hydra composes them, and the conditioners they build."""
