"""A real kafka server (fixtures to be filled in by its component)."""
