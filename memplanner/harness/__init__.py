"""Runs a plan's real modules and optimizer: on fake tensors for the exact trace, on a CPU or on a CUDA device.

Of this project only this package and memplanner.gradnormlorp import torch.
"""
