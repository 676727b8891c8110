"""Training stages of tokenizer, reward and transformer."""
