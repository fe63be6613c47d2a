"""Reading and writing a model with its config and tokenizer: one module per format."""
