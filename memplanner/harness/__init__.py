"""Real modules on fake tensors: the exact trace. The only package that imports torch."""
