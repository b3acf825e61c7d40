"""The terminal interface. `state` knows plans and no widgets; widgets and screens show what it says and compute nothing."""
