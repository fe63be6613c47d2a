"""A training run as a folder: plan, corpus, the loop over callbacks, checkpoints, resuming, forecast, verification."""
