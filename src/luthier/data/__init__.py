"""Training data: named corpora, downloads, text cleaning, splits, token shards, resumable batches."""
