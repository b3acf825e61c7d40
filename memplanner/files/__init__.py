"""Reads the files that users and strangers hand over: parsed, their faults named, and kept inside the repository."""
