"""Evaluation of a model on a text: loss and its standard error, perplexity, bits per byte, sliding windows."""
