"""A plan's training step: resolved into parts, then written on the tape."""
