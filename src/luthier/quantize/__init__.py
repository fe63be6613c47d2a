"""Weights in 8 or 4 bits: a model that is read faster from memory, and takes less of it."""
