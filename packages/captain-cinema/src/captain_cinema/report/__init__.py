"""Pages about films."""
