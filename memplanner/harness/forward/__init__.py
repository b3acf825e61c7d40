"""Records the forward pass of a type of model for sizes of all kinds: one file a type, which is read without torch."""
