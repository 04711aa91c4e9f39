"""What an experiment says: its schema, how Hydra composes it, and the conditioners it builds."""
