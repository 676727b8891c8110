"""The paper's mathematics: scales, draws, potentials, resampling, clustering and schedules; one equation, one function."""
