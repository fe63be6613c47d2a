"""Weight file formats: bytes on disk to named tensors and back; tables of names, read in both directions."""
