"""Training of tokenizer, reward and transformer, typed on contracts."""
