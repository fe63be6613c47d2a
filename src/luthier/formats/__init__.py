"""Weight file formats: bytes on disk to named tensors and back, independent of architectures."""
