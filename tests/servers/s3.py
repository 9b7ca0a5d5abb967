"""A real s3 server (fixtures to be filled in by its component)."""
