"""A training run as a folder: plan, corpus, evaluation, checkpoints, resuming, forecast, verification, reports."""
