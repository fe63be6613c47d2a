"""From any text to batches of ids: named corpora, cleaning, token shards, resumable batches."""
