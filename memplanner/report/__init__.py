"""Finished data in, text out; nothing here computes a byte."""
