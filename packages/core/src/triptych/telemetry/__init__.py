"""Logging, timing, FLOPs, profiling and trackers."""
