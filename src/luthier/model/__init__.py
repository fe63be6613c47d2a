"""The parts of a Transformer: norm, rope, mask, cache, attention, feed-forward, experts, loss. No family."""
