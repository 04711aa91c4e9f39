"""Checkpoints that outlive a pod: copied to S3, with one writer at a time."""
