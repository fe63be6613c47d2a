"""Names in Meta's own folders, params.json with consolidated.NN.pth, as `llama-models` has them."""
