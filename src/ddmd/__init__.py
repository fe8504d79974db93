"""Decoupled DMD: few-step students from text-to-image teachers (arXiv 2511.22677)."""

__version__ = "0.1.0"
