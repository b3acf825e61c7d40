"""Builds what a plan describes from real libraries, one function per method and per optimizer; refuses the rest."""
