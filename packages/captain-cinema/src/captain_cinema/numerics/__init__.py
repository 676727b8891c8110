"""Equations of the paper as pure functions: rectified flow, hybrid masks, GoldenMem, retrieval and the curriculum."""
