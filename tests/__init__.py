"""Tests. Pytest's workers share the cores already: torch, in them and in what they start, takes one thread each."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
