"""Optimizers: one state format per file."""
