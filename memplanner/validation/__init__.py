"""Compares predictions with what was measured or traced, figure by figure."""
