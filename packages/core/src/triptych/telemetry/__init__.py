"""What a run measures and tells: logging, seconds, operations, traces and trackers."""
