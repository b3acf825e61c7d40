"""Inputs that nobody would write, made from small valid ones, for everything that reads or writes a file or a word."""
