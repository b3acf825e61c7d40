"""Grids of plans that are run one after another, each in a process of its own."""
