"""The paper's mathematics: scales, streams, potentials, resampling, clustering and schedules; one equation, one function."""
