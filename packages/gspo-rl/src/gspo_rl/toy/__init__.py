"""Defaults for a laptop: sums with a written-out scratchpad, and a small Qwen3 over characters."""
