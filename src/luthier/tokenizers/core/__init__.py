"""The `Tokenizer`, and making one from text."""
