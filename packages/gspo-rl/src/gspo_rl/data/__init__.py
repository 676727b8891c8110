"""Prompts, completions, and padded batches for training."""
