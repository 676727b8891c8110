"""Entry points: Hydra, printing, and the verbs of `triptych`."""
