"""PyTorch's CUDA caching allocator: from a step program to the memory that is reserved for it."""
