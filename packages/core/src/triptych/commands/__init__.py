"""Hydra entry points, error messages, and the subcommands of `triptych`."""
