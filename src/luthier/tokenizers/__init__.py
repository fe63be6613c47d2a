"""Text to ids and back: one `Tokenizer`, whatever the kind."""
