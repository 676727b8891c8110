"""Supervised training: order of examples, loop, divergence guard and stages."""
