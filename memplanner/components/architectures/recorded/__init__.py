"""Families that are not written by hand: forward passes of transformers' models, recorded as lists of operations, and
run on the tape under whatever method, precision, attention and checkpointing a plan asks for.
"""
