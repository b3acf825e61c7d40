"""Training methods: one file each, with its settings and what a linear layer is under it."""
