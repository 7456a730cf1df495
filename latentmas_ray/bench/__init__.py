"""Measurements, each against a reference that runs beside it."""
