"""Reading and writing tokenizer files of other programs."""
