"""Plans a training on a user's images: models, sizes and steps, for a device and a time."""
