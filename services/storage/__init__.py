"""S3: conditional writes, where objects lie, and which errors are transient."""
