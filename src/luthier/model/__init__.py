"""The parts of a Transformer. They know nothing of any architecture."""
