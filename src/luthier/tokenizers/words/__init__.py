"""Fast encoding of long texts, word by word."""
