"""Architecture families: one file each, written in the order of its forward pass."""
