"""What each pipeline stage does: paths in, paths out."""
