"""Report pages of searches and of their evaluation."""
