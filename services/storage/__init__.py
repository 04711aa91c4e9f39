"""S3: conditional writes, the keys of objects, their URIs, and transient errors."""
