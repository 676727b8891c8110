"""Storyboard page of a film."""
