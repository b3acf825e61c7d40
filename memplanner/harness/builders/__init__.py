"""Builds what a plan says from real libraries: a function per method and per optimizer; what has none is refused."""
