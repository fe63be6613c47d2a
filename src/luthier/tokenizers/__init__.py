"""Text to ids and back, as one `Tokenizer`: readers and writers of files, fast encoding, chat templates."""
