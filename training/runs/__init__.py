"""One training run: the trainer, checkpoints, progress, and the release it writes."""
