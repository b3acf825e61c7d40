"""Predictions held against what was measured or traced, row by row."""
