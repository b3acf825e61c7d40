"""The terminal interface. `state` knows plans and no widgets; screens and widgets compute nothing."""
