"""Samples images: one process per GPU claims shards, runs the model and stores the images in S3."""
