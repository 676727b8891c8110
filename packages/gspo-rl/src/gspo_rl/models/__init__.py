"""Policies: a causal language model with its tokenizer, and its folder in Hugging Face format."""
