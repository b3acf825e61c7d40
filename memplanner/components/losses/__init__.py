"""Losses: one file each, with its settings, the inputs it needs and how it runs the model."""
