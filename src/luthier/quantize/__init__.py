"""Weight quantization: matrices of 8 or 4 bits in place of `nn.Linear`."""
