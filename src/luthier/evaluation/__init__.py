"""Evaluation of a model on a text: loss, perplexity and bits per byte."""
