"""Weight quantization to 8 or 4 bits, for less memory and faster inference."""
