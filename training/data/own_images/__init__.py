"""Image sets from a user's own folders, archives or S3 prefixes."""
