"""A training run as a folder: what it is made of, how it is trained, watched, saved and resumed."""
