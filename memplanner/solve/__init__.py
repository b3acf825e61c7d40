"""Searches over plans: what would fit, what to choose. Every answer is a plan that was predicted, not a guess."""
