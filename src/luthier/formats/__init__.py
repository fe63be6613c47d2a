"""Bytes on disk to named tensors and back. No format knows of any architecture."""
