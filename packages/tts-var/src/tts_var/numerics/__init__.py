"""Equations of the papers as pure functions: scales, sampling, potentials, resampling, clustering and schedules."""
