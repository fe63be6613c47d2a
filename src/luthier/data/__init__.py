"""Training data: named corpora, text cleaning, token shards, resumable batches."""
