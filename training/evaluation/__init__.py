"""What a release is worth on a set of images: figures, and pictures of what they are about."""
