"""The tape: PyTorch's eager mode and autograd re-enacted on shapes alone.

A model's forward pass written on the tape allocates, saves and frees what the real one does, in the same order,
because the tape keeps PyTorch's own rules:

* a tensor lives as long as something refers to it: a Python name in the forward function, or a node of the graph;
* an operation saves for backward exactly what its derivative needs;
* backward runs the nodes newest first, frees a node's saved tensors when it is done, and adds gradients in place
  where it holds the only reference.

The tape therefore relies on CPython's reference counts, as PyTorch relies on its own: a name that goes out of scope
frees its tensor at that very point. Nothing in this package knows about models, methods or GPUs.
"""
