"""Readers and writers of other programs' tokenizer files."""
