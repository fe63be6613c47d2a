"""A model with its config and tokenizer, read from each kind of file and written to it: a module a format."""
