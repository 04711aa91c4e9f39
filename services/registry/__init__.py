"""Published releases: rows in Postgres, files in S3, and a cache of them on disk."""
