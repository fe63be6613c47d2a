"""Names in OpenAI's GPT-2 folders, hparams.json with a TensorFlow checkpoint."""
