"""Text generation: sampling, beam search, key-value cache, speculative decoding, streaming, conversations."""
