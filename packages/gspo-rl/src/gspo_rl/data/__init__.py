"""Prompts, completions, and the padded tensors that training sees."""
