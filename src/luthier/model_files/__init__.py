"""A model, its config and its tokenizer out of each kind of file, and into it: a module a format."""
