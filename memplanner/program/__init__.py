"""The step program: what one training step allocates and frees, in order; whoever writes it, everything reads it."""
