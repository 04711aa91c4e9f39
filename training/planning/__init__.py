"""Chooses how to train on somebody's pictures: the models, their sizes and their steps, for a device and a time."""
