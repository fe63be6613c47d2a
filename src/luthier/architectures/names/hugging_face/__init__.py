"""Names in Hugging Face model folders, as `transformers` has them."""
