"""From logits to text: sampling, beam search, generation with a cache, streaming."""
