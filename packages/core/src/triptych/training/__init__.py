"""Supervised training: the order of examples and the loop."""
